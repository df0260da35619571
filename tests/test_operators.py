import json
import math
import re
import sqlite3
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from cli_toy import run
from profiler_toy import Host, Timed, Watch, toy_graph

from ecc.cli import operators as commands
from ecc.core.errors import InputError, Interrupted
from ecc.core.operators import COLUMNS, KINDS, Operator
from ecc.core.table import OperatorTable, Provenance
from ecc.profiler import operators as module
from ecc.profiler.meters.latency import CpuLatency
from ecc.profiler.operator_design import REFERENCE, Prediction, choose, is_small
from ecc.profiler.operator_modules import Alone, AloneRuntime, build
from ecc.profiler.operators import operator_table, profile_operators, read_operators
from ecc.profiler.runtimes import runtime_named
from ecc.profiler.store import Store
from ecc.profiler.window import Window

QUICK = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=2, pairs=4, burst=1, max_blocks=2)
ONCE = replace(QUICK, blocks=1, max_blocks=1)
CONV = {"channels_in": 8, "channels_out": 12, "height": 9, "width": 7, "kernel_h": 3, "kernel_w": 3}
SIZED = {
    "conv": Operator("conv", batch=2, out_height=5, out_width=4, stride=2, **CONV),
    "dilated": Operator("conv", out_height=9, out_width=7, dilation=2, **CONV),
    "valid": Operator("conv", out_height=7, out_width=5, **CONV),
    "depthwise": Operator("depthwise", groups=8, out_height=9, out_width=7, **{**CONV, "channels_out": 8}),
    "grouped": Operator("grouped", groups=4, out_height=9, out_width=7, **CONV),
    "transposed": Operator("transposed", out_height=18, out_width=14, stride=2, **CONV),
    "linear": Operator("linear", batch=2, length=5, channels_in=6, channels_out=7),
    "matmul": Operator("matmul", batch=2, groups=3, length=4, channels_in=5, channels_out=6),
    "attention": Operator("attention", batch=2, groups=3, length=4, context=9, channels_in=5, channels_out=6),
    "lstm": Operator("lstm", batch=2, length=3, channels_in=5, channels_out=6),
    "gru": Operator("gru", batch=2, length=3, channels_in=5, channels_out=6),
    "rnn": Operator("rnn", batch=2, length=3, channels_in=5, channels_out=6),
}


def seconds(operator):
    """What the toy's device takes."""
    return 2e-5 + 2e-10 * operator.macs + 1e-9 * (operator.reads + operator.writes + operator.weights)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A profile of thirty operators in a store."""
    path = tmp_path_factory.mktemp("operators") / "shared.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "build", lambda operator, dtype: Alone(Timed(seconds(operator)), ()))
        host = Host(slow=1.6, jitter=0.003)
        found = profile_operators(
            [Watch(host)], samples=30, longest_s=0.01, runtime=host, window=QUICK, store=path, clock=host
        )
    return found, path


@pytest.fixture
def toy(monkeypatch):
    """Operators of known duration on a host whose clock is simulated."""
    built = []

    def made(operator, dtype):
        built.append(operator)
        return Alone(Timed(seconds(operator)), ())

    monkeypatch.setattr(module, "build", made)

    def measure(host=None, *, watch=None, samples=30, longest_s=5.0, window=QUICK, **options):
        host = host or Host(jitter=0.003)
        meters = [watch or Watch(host)]
        return profile_operators(
            meters, samples=samples, longest_s=longest_s, runtime=host, window=window, clock=host, **options
        )

    measure.built = built
    return measure


def counted(operator, alone):
    """Multiply-accumulates, as the sum of an output made of ones: each adds one."""
    tensors = [torch.ones_like(tensor) for tensor in alone.inputs]
    if operator.kind == "attention":
        query, key, value = tensors
        scores = query @ key.mT
        return scores.sum() + (torch.ones_like(scores) @ value).sum()
    if operator.kind == "matmul":
        return (tensors[0] @ tensors[1]).sum()
    layer = alone.operator
    torch.nn.init.ones_(layer.weight)
    if operator.kind == "linear":
        return torch.nn.functional.linear(tensors[0], layer.weight).sum()
    rows, columns = layer.padding
    if operator.kind == "transposed":
        layer.padding = layer.output_padding = (0, 0)  # what is cut off is computed
    else:
        tensors = [torch.nn.functional.pad(tensors[0], (columns, columns, rows, rows), value=1.0)]
        layer.padding = (0, 0)
    return layer(*tensors).sum()


# -- operators


@pytest.mark.parametrize("name", [name for name in SIZED if name not in ("lstm", "gru", "rnn")])
def test_macs_are_those_that_are_done(name):
    assert counted(SIZED[name], build(SIZED[name])) == SIZED[name].macs > 0


@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_macs_of_recurrent_layers_are_those_of_their_matrices_at_each_step(kind):
    operator = SIZED[kind]
    layer = build(operator).operator
    matrices = sum(weight.numel() for name, weight in layer.named_parameters() if name.startswith("weight"))
    assert operator.macs == operator.batch * operator.length * matrices
    assert operator.weights == matrices


@pytest.mark.parametrize("name", SIZED)
def test_reads_weights_and_writes_are_those_of_the_tensors(name):
    operator, alone = SIZED[name], build(SIZED[name])
    output = alone()
    output = output[0] if isinstance(output, tuple) else output
    weights = sum(weight.numel() for name, weight in alone.operator.named_parameters() if "weight" in name)
    assert operator.reads == sum(tensor.numel() for tensor in alone.inputs)
    assert (operator.writes, operator.weights) == (output.numel(), weights)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"kind": "konv"}, "'konv' is unknown; choose from conv, "),
        ({"kind": "conv", "batch": 0}, r"Operator\(batch=...\) must be a whole number of at least 1, got 0"),
        ({"kind": "conv", "width": 1.5}, r"Operator\(width=...\) must be a whole number of at least 1, got 1.5"),
        ({"kind": "grouped", "groups": 3}, r"Operator\(groups=3\) must divide the channels of a grouped convolution"),
    ],
)
def test_what_is_no_operator_is_refused(sizes, message):
    with pytest.raises(InputError, match=message):
        Operator(**sizes)


# -- the design


def test_a_longer_design_begins_with_the_shorter_one_and_follows_the_seed():
    long = choose(400, seed=3)
    assert choose(150, seed=3) == long[:150]
    assert len(set(long)) == 400
    assert choose(150, seed=4) != long[:150]


def test_the_design_has_all_kinds_and_most_where_networks_live():
    counts = Counter(operator.kind for operator in choose(600))
    assert set(counts) == set(KINDS)
    assert counts.most_common(3)[0][0] == "conv"
    assert {kind for kind, _ in counts.most_common(3)} == {"conv", "linear", "depthwise"}
    assert min(counts.values()) >= 2


def test_the_design_has_channels_on_and_off_the_grid_and_the_sizes_of_networks():
    convolutions = [operator for operator in choose(800) if operator.kind == "conv"]
    channels = np.array([operator.channels_in for operator in convolutions])
    on_grid = (channels % 8 == 0).mean()
    assert 0.35 < on_grid < 0.75
    assert channels.min() <= 3
    assert channels.max() >= 1024
    assert {operator.kernel_w for operator in convolutions} == {1, 3, 5, 7}
    assert {operator.stride for operator in convolutions} == {1, 2}
    assert {7, 14, 28, 56, 112} <= {operator.height for operator in convolutions}
    assert any(operator.height == 1 < operator.width for operator in convolutions)


def test_one_of_each_kind_in_the_design_runs_and_gives_what_its_columns_say():
    kinds = {}
    for operator in choose(250, seed=1):
        if is_small(operator):
            kinds.setdefault(operator.kind, []).append(operator)
    assert set(kinds) == set(KINDS)
    with torch.inference_mode():
        for operators in kinds.values():
            for operator in operators[:2]:
                output = build(operator)()
                output = output[0] if isinstance(output, tuple) else output
                assert output.numel() == operator.writes, operator
                assert output.isfinite().all(), operator


def test_operators_are_built_in_the_type_of_numbers_that_is_asked_for():
    alone = build(SIZED["linear"], torch.bfloat16)
    assert alone().dtype == torch.bfloat16


def test_the_cap_is_predicted_from_a_few_operators_of_the_kind():
    design = [operator for operator in choose(2000) if operator.kind in ("conv", "linear")]
    prediction = Prediction({operator: seconds(operator) for operator in design if is_small(operator)})
    others = [operator for operator in design if not is_small(operator)]
    assert len(others) > 100
    errors = [prediction.seconds(operator) / seconds(operator) - 1 for operator in others]
    assert np.abs(errors).max() < 1e-6


def test_a_cap_that_nothing_meets_ends_the_search():
    assert choose(5, admits=lambda _: False) == []


# -- the profile


def test_ratios_to_the_reference_are_right_on_a_host_that_switches_speed(shared):
    found = shared[0].table
    truth = np.array([seconds(operator) for operator in found.operators]) / seconds(REFERENCE)
    assert len(found) == 30
    assert np.abs(found.rows["latency_ratio"] / truth - 1).max() < 0.02
    assert (found.rows["latency_ratio_low"] <= found.rows["latency_ratio_high"]).all()
    assert found.base == REFERENCE
    assert found.reference["latency"][0] == pytest.approx(seconds(REFERENCE), rel=0.7)


def test_the_table_is_typed_and_every_row_is_its_operator(shared):
    found = shared[0].table
    assert [str(found.rows[name].dtype) for name in (*COLUMNS, "macs", "read_bytes")] == ["int64"] * (2 + len(COLUMNS))
    for operator, (_, row) in zip(found.operators, found.rows.iterrows(), strict=True):
        assert (row["kind"], row["macs"]) == (operator.kind, operator.macs)
        assert row["read_bytes"] == 4 * (operator.reads + operator.weights)
        assert row["written_bytes"] == 4 * operator.writes
    assert set(found.of_kind("conv")["kind"]) == {"conv"}


def test_a_store_gives_the_same_table(shared):
    first, path = shared
    assert (first.result.measured, first.result.reused) == (60, 0)
    again = read_operators(path)
    pd.testing.assert_frame_equal(again.rows, first.table.rows)
    assert (again.reference, again.provenance) == (first.table.reference, first.table.provenance)


def test_what_a_store_holds_is_not_measured_again_and_a_longer_profile_keeps_it(toy, tmp_path):
    short = toy(store=tmp_path / "d.db", samples=10).table
    toy.built.clear()
    again = toy(store=tmp_path / "d.db", samples=10)
    assert (again.result.measured, again.result.reused, toy.built) == (0, 10, [])
    longer = toy(store=tmp_path / "d.db", samples=20)
    assert (len(longer.table), longer.result.measured, longer.result.reused) == (20, 10 * 2, 10)
    assert set(short.operators) < set(longer.table.operators)


def test_what_was_admitted_once_stays_in_the_design(toy, tmp_path):
    toy(store=tmp_path / "d.db", samples=8, window=ONCE)
    again = toy(store=tmp_path / "d.db", samples=8, longest_s=1e-9, window=ONCE)
    assert (again.result.measured, again.result.reused) == (0, 8)


def test_an_interrupted_profile_goes_on_from_its_rows(toy, tmp_path):
    host, stop_at = Host(), 90
    with pytest.raises(Interrupted, match="the same call goes on from there"):
        toy(host, watch=Watch(host, stop_at=stop_at), store=tmp_path / "d.db", samples=10)
    connection = sqlite3.connect(tmp_path / "d.db")
    kept = connection.execute("SELECT config, block FROM rows").fetchall()
    connection.close()
    assert len(kept) == stop_at // 8
    assert toy(store=tmp_path / "d.db", samples=10).result.measured == 20 - len(kept)


def test_operators_that_would_take_too_long_are_left_out_and_counted(toy):
    capped = toy(samples=80, window=ONCE, longest_s=0.002)
    slow = [operator for operator in choose(80) if seconds(operator) > 0.003]
    assert len(slow) > 10
    assert len(capped.table) == 80
    assert capped.skipped >= 0.8 * len(slow)
    assert np.mean([seconds(operator) > 0.003 for operator in capped.table.operators]) < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"longest_s": 0.0}, r"\(longest_s=...\) must be a positive number of seconds, got 0.0"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown; choose from float32, bfloat16, float16"),
    ],
)
def test_nonsense_is_refused(toy, options, message):
    with pytest.raises(InputError, match=message):
        toy(**options)


def test_without_latency_there_is_no_telling_what_takes_too_long(toy):
    host = Host()
    with pytest.raises(InputError, match="an operator profile needs latency"):
        toy(host, watch=Watch(host, metric="energy"))


def test_one_store_holds_one_type_of_numbers(toy, tmp_path):
    toy(store=tmp_path / "d.db", samples=3)
    with pytest.raises(InputError, match="belongs to another profile"):
        toy(store=tmp_path / "d.db", samples=3, dtype="bfloat16")


def test_the_profile_of_a_network_is_none_of_operators(tmp_path):
    graph = toy_graph()
    where = Provenance("net", "f" * 16, (1, 3), "cpu of the test", "d" * 16)
    with Store.open(tmp_path / "p.db") as store:
        store.begin_run(where, graph.space, graph.layers, protocol={}, seed=0, started=0.0)
    with pytest.raises(InputError, match="holds no measured row yet"):
        read_operators(tmp_path / "p.db")


@pytest.mark.parametrize(
    ("column", "value"), [("kind", len(KINDS) + 1), ("groups", 7)], ids=["unknown kind", "impossible groups"]
)
def test_an_altered_row_is_refused(toy, tmp_path, column, value):
    toy(store=tmp_path / "d.db", samples=3)
    connection = sqlite3.connect(tmp_path / "d.db")
    with connection:
        for number, text in connection.execute("SELECT id, widths FROM rows").fetchall():
            sizes = {**json.loads(text), column: value}
            connection.execute("UPDATE rows SET widths = ? WHERE id = ?", (json.dumps(sizes), number))
    connection.close()
    with pytest.raises(InputError):
        read_operators(tmp_path / "d.db")


def test_a_real_profile_of_a_dozen_operators(tmp_path):
    window = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=1, pairs=2, burst=1, max_blocks=1)
    found = profile_operators([CpuLatency()], samples=12, longest_s=0.005, window=window, store=tmp_path / "d.db")
    assert isinstance(found.table, OperatorTable)
    assert len(found.table) == 12
    assert (found.table.rows["latency_s"] > 0).all()
    assert found.table.provenance.environment["dtype"] == "float32"
    assert operator_table(Store(tmp_path / "d.db").table()).operators == found.table.operators


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_operators_of_all_kinds_run_under_other_runtimes(runtime):
    pytest.importorskip(runtime)
    pytest.importorskip("onnxscript")
    alone = AloneRuntime(runtime_named(runtime, "cpu", 1))
    one = {operator.kind: operator for operator in filter(is_small, choose(400))}
    assert len(one) > 20
    for operator in one.values():
        alone.prepare(build(operator), ())(1)


# -- the command line


def test_profile_operators_passes_its_options_on_and_says_what_was_measured(shared, monkeypatch):
    given = {}

    def measure(**options):
        given.update(options)
        return shared[0]

    monkeypatch.setattr(commands, "measure_operators", measure)
    line = "--operators --store d.db --samples 30 --threads 2 --dtype bfloat16 --seed 7"
    said = run("profile --json", *line.split())
    assert said.code == 0
    assert given["dtype"] == "bfloat16"
    assert {name: given[name] for name in ("samples", "threads", "seed", "store", "runtime", "device")} == {
        "samples": 30, "threads": 2, "seed": 7, "store": "d.db", "runtime": "eager", "device": "cpu"
    }  # fmt: skip
    assert (said.value["rows"], said.value["rows_reused"], sum(said.value["kinds"].values())) == (30, 0, 30)
    assert said.value["dense"]["latency_s"] == shared[0].table.reference["latency"][0]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("profile --operators zoo:lenet5 --store d.db", "measures a device, no network; leave out MODEL"),
        ("profile --operators --input 1x3x8x8 --store d.db", "leave out --input"),
        ("profile zoo:lenet5 --dtype float16 --store d.db", "--dtype is of --operators"),
        ("profile --operators --max-seconds 3 --store d.db", "leave out --max-seconds"),
        ("profile --store d.db", "give a MODEL to profile, for example zoo:resnet20, or --operators"),
    ],
)
def test_what_does_not_go_together_is_refused(line, words):
    said = run(*line.split())
    assert said.code == 2
    assert words in said.err


def test_inspect_shows_operators_as_such(shared, tmp_path):
    said = run("inspect --json", str(shared[1]), "--csv", str(tmp_path / "rows.csv"))
    assert (said.value["kind"], said.value["rows"]) == ("operator profile", 30)
    frame = pd.read_csv(tmp_path / "rows.csv")
    assert [Operator(*row) for row in frame[["kind", *COLUMNS]].itertuples(index=False)] == shared[0].table.operators
    assert frame["macs"].tolist() == shared[0].table.rows["macs"].tolist()
    assert frame["latency_ratio"].tolist() == pytest.approx(shared[0].table.rows["latency_ratio"].tolist())


def test_the_page_of_an_operator_profile_speaks_of_operators(shared, tmp_path):
    said = run("inspect", str(shared[1]), "--html", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    for text in (said.out, page):
        words = re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", text, flags=re.DOTALL)
        assert "reference convolution" in words
        assert not re.search(r"\bdense\b|\bgroups\b(?!=)|channels of", words)
    assert str(shared[0].table.reference["latency"] and REFERENCE) in page
    assert "The reference convolution is measured beside every operator." in page


def test_what_one_reading_cannot_tell_is_said_in_words(shared):
    table, result = shared[0].table, shared[0].result
    value = table.reference["latency"][0]
    table = replace(table, reference={"latency": (value, 0.0, math.inf)})
    result = replace(result, noise={"latency": math.inf})
    text = commands.operators_text(replace(shared[0], table=table, result=result), "d.db")
    assert "[unknown], how well ratios are known is not clear" in text
    assert "inf" not in text


def test_no_cost_model_of_widths_is_fitted_to_operators(shared, tmp_path):
    said = run("fit", str(shared[1]), "-o", str(tmp_path / "cost.json"))
    assert said.code == 2
    assert "holds operators, not widths of a network" in said.err
