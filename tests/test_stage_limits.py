"""Limits of ``ecc.stage``: what they are read as, and energy that is kept by what is stored."""

import pytest
import torch
from bits_toy import stage_with_data, trained

import ecc
from ecc.api.describing import Source
from ecc.api.stage_limits import StageLimits, parse_bytes
from ecc.api.stage_start import start_of_network
from ecc.api.weight_verdicts import AS_STORED
from ecc.cli.packing import staged_text
from ecc.core.budget import Budget
from ecc.core.errors import InputError
from ecc.energy_models.systolic.energy import systolic_energy
from ecc.network.tracing import trace
from ecc.report.saving import save
from ecc.stages.candidates import LEFT
from ecc.zoo.loading import load_model

# -- energy


def test_a_budget_on_energy_is_kept_by_what_is_stored():
    made = stage_with_data(
        ["prune", "codebook", "entropy"], budgets=["energy=0.15"], array="eyeriss", options={"prune.epochs": 6}
    )
    (check,) = made.budgets
    graph = trace(trained(), torch.zeros(1, 64))
    exact = systolic_energy(made.model, graph, "eyeriss", stored=made.code.stored())
    assert check.measured == pytest.approx(exact.total, rel=1e-12)
    assert check.dense == pytest.approx(exact.relaxed_dense, rel=1e-12)
    assert check.met
    assert 0.12 * check.dense < check.measured <= 0.15 * check.dense
    assert check.source == f"systolic array eyeriss{AS_STORED}"
    assert check.to_json()["unit"] == "e_RF"


def test_bytes_and_energy_are_kept_together():
    made = ecc.stage(
        trained(),
        ["prune", "codebook", "entropy"],
        nbytes="12x",
        budgets=[Budget("energy", 0.2)],
        array="eyeriss",
        example_inputs=torch.zeros(1, 64),
    )
    assert made.nbytes <= made.dense_bytes / 12
    assert made.budgets[0].met


def test_few_bits_beside_zeros_keep_more_accuracy_than_zeros_alone_at_equal_energy():
    given = {"budgets": ["energy=0.15"], "array": "eyeriss", "options": {"prune.epochs": 12}}
    alone, together = (
        stage_with_data(["prune", "entropy"], **given),
        stage_with_data(["prune", "codebook", "entropy"], **given),
    )
    assert alone.budgets[0].met
    assert together.budgets[0].met
    assert together.accuracy > alone.accuracy + 0.05


def test_verify_computes_a_budget_on_stored_weights_anew(tmp_path):
    model = load_model("zoo:digits-resnet").module
    made = ecc.stage(
        model,
        ["codebook", "entropy"],
        budgets=["energy=0.8"],
        array="eyeriss",
        example_inputs=torch.zeros(1, 1, 8, 8),
    )
    assert made.budgets[0].met
    save(made, tmp_path / "out", source=Source(model="zoo:digits-resnet"))
    loaded = ecc.load(tmp_path / "out")
    verdict = ecc.verify(loaded)
    (again,) = verdict.checks
    assert again == made.budgets[0]


# -- what is asked for


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("50KB", 50_000),
        ("1.5 MiB", 1_572_864),
        ("700", 700),
        (700, 700),
        ("10x", 40_000),
        ("5%", 20_000),
        ("2kb", 2000),
    ],
)
def test_bytes_are_read_in_all_their_forms(text, found):
    assert parse_bytes(text, 400_000) == found


@pytest.mark.parametrize("text", ["", "50 apples", "-3KB", "0", "0x", "nan", "1e400KB", "KB", "9" * 400])
def test_what_are_no_bytes_is_refused(text):
    with pytest.raises(InputError, match="no size of a file; write 50KB"):
        parse_bytes(text, 400_000)


def test_budgets_that_stages_do_not_keep_are_refused():
    start = start_of_network(trained(), torch.zeros(1, 64))
    with pytest.raises(InputError, match="secondary stages change no latency"):
        StageLimits.of(start, None, [Budget("latency", 0.5)], "eyeriss")
    with pytest.raises(InputError, match="give --budget energy=LIMIT and --cost systolic:eyeriss together"):
        StageLimits.of(start, None, [Budget("energy", 0.5)])
    with pytest.raises(InputError, match="together"):
        StageLimits.of(start, None, [], "eyeriss")
    with pytest.raises(InputError, match="several times"):
        StageLimits.of(start, None, [Budget("energy", 0.5)] * 2, "eyeriss")
    with pytest.raises(InputError, match="is no systolic array"):
        StageLimits.of(start, None, [Budget("energy", 0.5)], "nothing")
    with pytest.raises(InputError, match="cannot be reached by choosing settings of these stages: the least is energy"):
        ecc.stage(trained(), "codebook", budgets=["energy=0.01"], array="eyeriss", example_inputs=torch.zeros(1, 64))


@pytest.mark.parametrize("name", ["multilevel-product-quant", "deepthin", "hashed", "multi-hash"])
def test_bytes_for_a_stage_that_has_its_own_are_sent_to_its_option(name):
    with pytest.raises(InputError, match=rf"{name} itself, by its option {name}\.nbytes=9000$"):
        ecc.stage(trained(), name, nbytes=9000, example_inputs=torch.zeros(1, 64))
    with pytest.raises(InputError, match=r"or fixed-point$"):
        ecc.stage(trained(), name, budgets=["energy=0.5"], array="eyeriss", example_inputs=torch.zeros(1, 64))


def test_tensors_that_a_stage_treats_by_other_settings_are_in_the_record():
    made = ecc.stage(
        trained(), "product-quant", options={"product-quant.most_error": 2e-5}, example_inputs=torch.zeros(1, 64)
    )
    (record,) = made.stages
    assert record.choices["4.weight"] == LEFT
    assert record.choices["0.weight"] != LEFT
    assert "product-quant left as it was: " in staged_text(made)
    forced = ecc.stage(
        trained(), "product-quant", options={"product-quant.most_error": 1}, example_inputs=torch.zeros(1, 64)
    )
    assert LEFT not in forced.stages[0].choices.values()
    assert "left as it was" not in staged_text(forced)
