"""``ecc.stage``: stages in order on any network, their figures, what is refused before any work, and resuming."""

import copy
import warnings
from dataclasses import dataclass, replace

import pytest
import torch
from staging_toy import INPUTS, digits, small, trained
from torch import nn

import ecc
from ecc.api.result import Compression
from ecc.api.stage_options import settings_of, stages_of
from ecc.api.stage_outputs import demand_finite
from ecc.api.stage_start import start_of_network
from ecc.api.staging import StageJob
from ecc.api.workshop import Shop, Training, bare_workshop, judge
from ecc.core.errors import InputError, Interrupted, NothingToDo
from ecc.core.problem import Task
from ecc.solvers.evaluation import evaluate
from ecc.stages.code import packed
from ecc.stages.codebook import Codebook
from ecc.stages.fixed_point.stage import FixedPoint
from ecc.stages.methods import STAGES
from ecc.stages.prune import Prune


def stage(apply, model=None, **options):
    data = digits()
    given = {"train": data.train, "validation": data.validation, "test": data.test} | options
    return ecc.stage(trained() if model is None else model, apply, **given)


# -- what comes back


def test_the_model_has_the_weights_of_the_code_and_the_figures_are_those_of_both():
    result = stage([FixedPoint(bits=5), "entropy"])
    for name, tensor in result.code.decode().items():
        assert torch.equal(result.model.state_dict()[name], tensor), name
    data = digits()
    assert result.accuracy == evaluate(result.model, data.test, data.score) == result.stages[-1].accuracy
    assert result.accuracy_before == evaluate(trained(), data.test, data.score)
    assert result.nbytes == len(result.code.to_bytes()) == result.stages[-1].bytes
    assert result.dense_bytes == 4 * sum(parameter.numel() for parameter in trained().parameters())
    assert result.ratio == result.bytes_before / result.nbytes > 3
    assert [each.name for each in result.stages] == ["fixed-point", "entropy"]
    assert repr(result).startswith(f"Staged(fixed-point, entropy: {result.bytes_before:,} → {result.nbytes:,} bytes (")


def test_what_came_in_is_left_as_it_was():
    before = copy.deepcopy(trained().state_dict())
    stage(["fold", Prune(density=0.3, epochs=1), Codebook(bits=4, epochs=1)])
    assert not trained().training
    assert all(torch.equal(tensor, before[name]) for name, tensor in trained().state_dict().items())
    assert isinstance(trained()[1], nn.BatchNorm2d)


def test_stages_train_and_their_epochs_are_the_history():
    result = stage([Prune(density=0.3, epochs=2), Codebook(bits=4, epochs=1)])
    assert result.history["phase"].tolist() == ["prune"] * 2 + ["codebook 1"]
    assert result.history["epoch"].tolist() == [1, 2, 1]
    longer = stage([Prune(density=0.3, epochs=1)], effort=2.5)
    assert longer.history["epoch"].tolist() == [1, 2, 3]


def test_fold_changes_the_structure_and_later_stages_see_it():
    result = stage(["fold", FixedPoint(bits=8)])
    assert isinstance(result.model[1], nn.Identity)
    assert result.model[0].bias is not None
    x = torch.rand(16, 1, 8, 8)
    assert torch.allclose(result.model(x), trained()(x), atol=0.05)


def test_stages_without_data_leave_the_accuracy_open():
    result = ecc.stage(trained(), [FixedPoint(bits=6)])
    assert (result.accuracy, result.accuracy_before, result.reason) == (None, None, "no data were given")
    assert repr(result).endswith("×))")
    assert ecc.stage(trained(), "fold", example_inputs=INPUTS).nbytes < result.bytes_before


def test_later_calls_go_on_with_the_code_of_earlier_ones():
    once = ecc.stage(trained(), [FixedPoint(bits=6), "entropy"])
    twice = ecc.stage(ecc.stage(trained(), FixedPoint(bits=6)), "entropy")
    assert twice.code.to_bytes() == once.code.to_bytes()
    assert twice.bytes_before == once.stages[0].bytes


def test_the_same_seed_gives_the_same_bytes():
    apply = [Prune(density=0.3, epochs=1), Codebook(bits=3, epochs=1)]
    assert stage(apply, seed=3).code.to_bytes() == stage(apply, seed=3).code.to_bytes()


# -- names and options


def test_every_stage_can_be_made_by_its_name_and_tells_its_options():
    for name, kind in STAGES.items():
        (made,) = stages_of(name)
        assert isinstance(made, kind)
        assert made.name == name
        assert all(value is None or isinstance(value, str | int | float) for value in settings_of(made).values())


def test_options_are_of_the_types_of_the_fields():
    options = {"codebook.bits": 3, "codebook.layers": "5.weight,7.*", "codebook.lr": 1}
    (made,) = stages_of("codebook", options)
    assert made == Codebook(bits=3, layers=("5.weight", "7.*"), lr=1.0)


@pytest.mark.parametrize(
    ("apply", "options", "said"),
    [
        ([], {}, "no stage is given; apply one or several of fold"),
        ("codebok", {}, "stage 'codebok' is unknown; did you mean codebook"),
        ("codebook", {"codebook.bit": 3}, "option codebook.bit is unknown; did you mean bits"),
        ("codebook", {"codebook.bits": 2.5}, "option codebook.bits must be a whole number, got 2.5"),
        ("codebook", {"codebook.bits": 40}, r"Codebook\(bits=...\) must be from 1 to 12, got 40"),
        (
            "codebook",
            {"prune.density": 0.1},
            "is of stage prune, which is not applied by name; write codebook or train",
        ),
        ("codebook", {"bits": 3}, "option 'bits' is not STAGE.OPTION"),
        ([Codebook], {}, "is no stage; give a name or a stage"),
        ([None], {}, "a NoneType is no stage"),
    ],
)
def test_stages_that_make_no_sense_are_refused(apply, options, said):
    with pytest.raises(InputError, match=said):
        stages_of(apply, options)


@pytest.mark.parametrize(
    ("apply", "said"),
    [
        (["codebook", "fold"], "fold changes weights, and codebook has encoded .*; apply fold before any other stage"),
        (["prune", "fold"], "and prune has encoded"),
        (["codebook", "prune"], "because codebook has quantised them; apply prune before"),
        (["fixed-point", "codebook"], "because fixed-point has quantised them; apply one of them only"),
        (["deep-compression", "fixed-point"], "because deep-compression has quantised them"),
        (["huffman", "prune"], "huffman finds no codes"),
        ([Codebook(layers=("nothing.*",))], r"'nothing\.\*' name no weights of the network"),
        (["half", "fold"], "and half has encoded"),
        (["fold", "fold"], "fold is given twice, .* leave one out"),
        (["entropy", "prune"], "entropy finds no codes"),
        (["entropy"], "entropy finds no codes"),
        (["prune", "svd"], "svd takes weights that are stored as they are, and prune has encoded them"),
        (["prune", "deepthin"], "deepthin takes weights that are stored as they are, and prune has"),
        (["hashed", "svd"], "and hashed has encoded them"),
        (["deepthin", "svd"], "and deepthin has encoded them"),
        (["svd", "prune"], "prune takes weights that are stored as they are, and svd has"),
        (["svd", "deep-compression"], "and svd has encoded them"),
        (["prune", "entropy", "codebook"], "entropy comes last, and codebook would change .*; apply codebook before"),
        (["prune", "huffman", "codebook"], "huffman comes last"),
        (["codebook", "entropy", "half"], "entropy comes last, and half would change"),
        (["codebook", "entropy", "entropy"], "entropy comes last, .*; leave one of them out"),
    ],
)
def test_orders_that_cannot_work_are_refused_before_any_work(apply, said, monkeypatch):
    monkeypatch.setattr(StageJob, "run", lambda self: pytest.fail("it began"))
    with pytest.raises(InputError, match=said):
        stage(apply)


def test_stages_of_different_layers_go_in_any_order():
    result = ecc.stage(
        trained(), [Codebook(layers=("7.weight",)), FixedPoint(layers=("5.weight",)), "prune", "entropy"]
    )
    forms = {name: node.kind for name, node in result.code.nodes.items() if hasattr(node, "kind")}
    assert forms["5.weight"] == "fixed"
    assert forms["0.weight"] == "sparse"


@pytest.mark.parametrize(
    "apply",
    [
        ["fold", "deep-compression", "half", "entropy"],
        ["prune", "codebook", "entropy"],
        ["prune", "codebook", "huffman"],
    ],
)
def test_a_chain_goes_on_without_stages_that_find_nothing_to_do(apply, caplog):
    torch.manual_seed(0)
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    result = ecc.stage(tiny, apply, options={f"{apply[-3]}.density": 0.4}, example_inputs=torch.randn(2, 1, 2, 3))
    assert [each.name for each in result.stages] == apply
    (note,) = result.notes
    idle = "fold changes nothing: there is nothing to fold" if "fold" in apply else "codebook changes nothing: "
    assert note.startswith(idle)
    assert note in f"{caplog.messages[0].removeprefix('stage ')}"
    assert result.to_json()["notes"] == [note]
    assert result.nbytes < result.bytes_before


@pytest.mark.parametrize(
    "apply", ["fold", [Codebook()], ["prune", Codebook(layers=("3.weight",))], ["fold", Codebook()]], ids=str
)
def test_nothing_to_do_is_refused_alone_and_in_layers_that_are_named(apply):
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(NothingToDo):
        ecc.stage(tiny, apply, example_inputs=torch.randn(2, 1, 1, 2))


def test_few_weights_that_a_codebook_makes_smaller_are_shared():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    pruned = ecc.stage(model, ["prune"], options={"prune.density": 0.1}, example_inputs=torch.randn(2, 1, 8, 8))
    assert ecc.stage(pruned, [Codebook(bits=3)]).nbytes < pruned.nbytes - 150


def test_what_was_staged_before_counts_in_the_order():
    coded = ecc.stage(trained(), "codebook")
    with pytest.raises(InputError, match="because an earlier call has quantised them"):
        ecc.stage(coded, "fixed-point")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"effort": 0}, "effort must be a positive number"),
        ({"distill": 2.0}, r"TrainConfig\(distill=...\) must be in \[0, 1\]"),
        ({"options": {"train.optimizer": "magic"}}, "TrainConfig"),
        ({"options": {"train.epochs": 3}}, "option train.epochs is the job's own"),
        ({"validation": None}, "give train and validation together"),
    ],
)
def test_training_that_makes_no_sense_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        stage("prune", **options)


def test_other_things_than_networks_and_artefacts_are_refused(tmp_path):
    with pytest.raises(InputError, match="stage takes a network or an artefact, not an int"):
        ecc.stage(3, "prune")
    with pytest.raises(InputError, match="is not a folder"):
        ecc.stage(tmp_path / "nowhere", "prune")


def test_a_compression_is_to_be_saved_first():
    with pytest.raises(InputError, match=r"not a Compression; save it first with ecc\.save\(result, FOLDER\)"):
        ecc.stage(object.__new__(Compression), "prune")


def test_fold_without_inputs_says_what_it_needs():
    with pytest.raises(InputError, match="fold needs the network and a batch of inputs"):
        ecc.stage(trained(), "fold")


# -- parametrised weights


def reparametrised(kind):
    """Three linear layers, of which the first and the last compute their weights from other tensors."""
    torch.manual_seed(1)
    utils = nn.utils
    made = {
        "parametrize": lambda layer: utils.parametrizations.weight_norm(layer),
        "spectral": lambda layer: utils.parametrizations.spectral_norm(layer),
        "hook": lambda layer: quietly(utils.weight_norm, layer),
        "spectral hook": lambda layer: quietly(utils.spectral_norm, layer),
        "pruning": lambda layer: utils.prune.l1_unstructured(layer, "weight", amount=0.5),
    }[kind]
    layers = [nn.Flatten(), made(nn.Linear(64, 32)), nn.Linear(32, 16), nn.ReLU(), made(nn.Linear(16, 10))]
    return nn.Sequential(*layers).eval()


def quietly(change, layer):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return change(layer)


KINDS = ["parametrize", "spectral", "hook", "spectral hook", "pruning"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "apply",
    [["multilevel-product-quant", "entropy"], [Prune(density=0.3, epochs=1), Codebook(epochs=1), "entropy"], "half"],
)
def test_what_parametrised_weights_are_computed_from_is_stored_as_it_is(kind, apply, caplog):
    model = reparametrised(kind)
    with caplog.at_level("WARNING", "ecc"):
        result = stage(apply, model)
    coded = {name for name, node in result.code.nodes.items() if hasattr(node, "kind")}
    assert "2.weight" in coded
    assert not {name for name in coded if name.startswith(("1.", "4.")) and not name.endswith("bias")}
    assert sum("stages leave 1." in each.getMessage() for each in caplog.records) == 1
    x = torch.rand(8, 1, 8, 8)
    with torch.no_grad():
        assert result.model(x).isfinite().all()
    again = ecc.stage(result, "entropy", example_inputs=INPUTS)
    assert again.code.left == result.code.left


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("apply", ["codebook", Prune(layers=("1.*",))])
def test_where_only_parametrised_weights_are_meant_the_mend_is_told(kind, apply):
    model = reparametrised(kind)
    model = model if isinstance(apply, Prune) else nn.Sequential(model[0], model[1])
    with pytest.raises(InputError, match=r"there is nothing else to encode.*remove_parametrizations\(module"):
        ecc.stage(model, apply)


def test_parametrised_weights_of_an_artefact_are_left_too(tmp_path):
    model = reparametrised("parametrize")
    ecc.save(ecc.stage(model, "codebook", example_inputs=INPUTS), tmp_path / "once")
    loaded = ecc.load(tmp_path / "once", model=reparametrised("parametrize"))
    assert len(ecc.stage(loaded, "entropy").code.left) == 4


def test_tied_tensors_are_left_by_the_name_that_is_stored():
    model = reparametrised("parametrize")
    model.append(nn.Linear(64, 32))
    model[5].weight = model[1].parametrizations.weight.original1
    assert {"2.weight"} == {
        name for name, node in ecc.stage(model, "codebook").code.nodes.items() if hasattr(node, "kind")
    }


# -- outputs that are no numbers


class Root(nn.Sequential):
    """A network that gives NaN unless its weights are as they were."""

    def forward(self, x):
        return (
            super().forward(x) + (self[1].weight.sum() - self.total).square().neg().mul(1e12).clamp(-2, 0).add(1).sqrt()
        )


def rooted():
    torch.manual_seed(2)
    model = Root(nn.Flatten(), nn.Linear(64, 10))
    model.total = model[1].weight.sum().detach()
    return model.eval()


def test_a_network_that_comes_to_give_nan_is_refused(tmp_path):
    with pytest.raises(InputError, match="behind entropy, the last stage, the network gives NaN or infinity"):
        ecc.stage(rooted(), [FixedPoint(bits=3), "entropy"], example_inputs=INPUTS)
    with pytest.raises(InputError, match="behind fixed-point, the last stage"):
        stage([FixedPoint(bits=3)], rooted())


def test_nan_that_was_there_before_is_no_reason_to_refuse():
    model = rooted()
    model.total = model.total + 1
    assert not model(INPUTS).isfinite().any()
    assert ecc.stage(model, FixedPoint(bits=3), example_inputs=INPUTS).nbytes > 0
    before, after = (Shifted(torch.tensor(each)) for each in ([1.0, -torch.inf], [2.0, -torch.inf]))
    demand_finite(before, after, (torch.zeros(2),), "any")
    with pytest.raises(InputError, match="behind any"):
        demand_finite(before, Shifted(torch.tensor([torch.inf, -torch.inf])), (torch.zeros(2),), "any")


class Shifted(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return {"out": x + self.by}


def test_a_network_that_does_not_run_on_the_inputs_is_not_judged():
    result = ecc.stage(trained(), FixedPoint(bits=6), example_inputs=torch.zeros(3))
    assert result.start.manifest is None


# -- the workshop


def test_the_judge_gives_the_mean_loss_over_examples_and_the_score():
    data = digits()
    x, y = (torch.cat(parts) for parts in zip(*data.validation, strict=True))
    with torch.no_grad():
        expected = float(data.loss(trained()(x), y))
    loss, score = judge(trained(), data.task())
    assert loss == pytest.approx(expected, rel=1e-5)
    assert score == evaluate(trained(), data.validation, data.score)


def test_a_bare_workshop_refuses_what_needs_data():
    workshop = bare_workshop(small(), (INPUTS,))
    assert torch.equal(workshop.inputs[0], INPUTS)
    with pytest.raises(InputError, match="there are no data"):
        next(iter(workshop.task.validation))
    with pytest.raises(InputError, match="there are no data"):
        workshop.train(small(), epochs=1, lr=1e-3, phase="any")


@dataclass
class Halfway:
    """A loader that is interrupted once, in a given batch."""

    batches: object
    left: int

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        for batch in self.batches:
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
            yield batch


def test_training_that_was_interrupted_goes_on_where_it_stopped(tmp_path):
    data = digits()
    apply = (Prune(density=0.3, epochs=2), Codebook(bits=3, epochs=2))

    def job(train):
        task = Task(train, data.validation, data.loss, data.score)
        return StageJob(start_of_network(trained()), apply, Training(seed=1), task, folder=tmp_path)

    whole = replace(job(data.train), folder=None).run()
    steps = 2 * len(data.train)
    with pytest.raises(Interrupted, match="its state is saved"):
        job(Halfway(data.train, 1 + steps + 3)).run()  # in the second stage; one batch is looked at before
    assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {"1", "2"}
    assert job(data.train).run().code.to_bytes() == whole.code.to_bytes()


def test_each_step_is_told_the_share_that_is_done():
    data, shares = digits(), []
    shop = Shop(data.task(), trained(), (INPUTS,), Training())
    workshop = shop.workshop(trained(), "prune")
    workshop.train(copy.deepcopy(trained()), epochs=2, lr=1e-4, phase="prune", each_step=shares.append)
    assert len(shares) == 2 * len(data.train)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


def test_a_state_is_packed_as_it_is():
    start = start_of_network(trained(), INPUTS)
    assert packed(start.model.state_dict()).nbytes == start.code.nbytes
    assert start.manifest is not None
    assert start.manifest.made_by == ""


def test_training_under_other_options_is_not_resumed(tmp_path):
    data = digits()
    task = Task(data.train, data.validation, data.loss, data.score)

    def made(density, folder):
        job = StageJob(
            start_of_network(trained()), (Prune(density=density, epochs=1),), Training(), task, folder=folder
        )
        return job.run().code.to_bytes()

    made(0.5, tmp_path)
    assert made(0.2, tmp_path) == made(0.2, None)


@pytest.mark.parametrize("apply", ["prune", "svd", "hashed", "codebook"])
def test_parameters_of_float16_are_not_trained_and_the_mend_is_told(apply, monkeypatch):
    x, y = torch.randn(60, 16).half(), torch.arange(60) % 3
    model = nn.Sequential(nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 3)).half()
    data = [(x, y)]
    monkeypatch.setattr(StageJob, "run", lambda _: pytest.fail("work was begun"))
    with pytest.raises(InputError, match=r"^the parameter '0.weight' is of float16, in which adam cannot train; give"):
        ecc.stage(model, apply, train=data, validation=data)


def test_float16_is_staged_without_training():
    x, y = torch.randn(60, 16).half(), torch.arange(60) % 3
    model, data = nn.Sequential(nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, 3)).half(), [(x, y)]
    assert ecc.stage(model, "log-quant", train=data, validation=data).ratio > 1
    tuned = ecc.stage(model, Prune(density=0.5, epochs=0), train=data, validation=data)
    assert tuned.accuracy is not None
    rough = ecc.stage(model, "svd", train=data, validation=data, options={"train.optimizer": "sgd", "svd.epochs": 1})
    assert rough.ratio > 1
