"""fit and judge from stores, in Python and on the command line: what is asked for, and what is refused."""

import itertools
import json
import re
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
import torch
from cli_toy import NETWORK, run
from oracles import residual_net, simulated_profile

import ecc
from ecc.api.compressing import job_of
from ecc.api.constraints import constraints_of, floor_of
from ecc.core.budget import Budget
from ecc.core.errors import InputError
from ecc.core.problem import Problem
from ecc.data.loading import load_data
from ecc.energy_models import judging
from ecc.energy_models.bilinear import fit as fit_bilinear
from ecc.energy_models.forms import FORMS
from ecc.energy_models.loading import load_cost as load
from ecc.network.tracing import trace
from ecc.profiler.host import Disturbance
from ecc.profiler.pairing import Pairs
from ecc.profiler.store import Store
from ecc.profiler.tables import Visit
from ecc.solvers.baselines.magnitude import Magnitude
from ecc.solvers.baselines.uniform import Uniform
from ecc.solvers.limits import Limits
from ecc.zoo.loading import load_model


def write_store(path, table, *, metric="latency"):
    """A store that holds the rows of a simulated profile."""
    dense = table.reference[metric][0]
    with Store.open(path) as store:
        begun = store.begin_run(table.provenance, table.space, table.layers, protocol={}, seed=0, started=0.0)
        for number, (widths, ratio) in enumerate(zip(table.widths, table.rows[f"{metric}_ratio"], strict=True)):
            spread = np.exp(np.random.default_rng(number).normal(0, 0.02, 9))
            spread /= np.median(spread)
            pairs = Pairs(ratio * dense * spread, np.full(9, dense), np.full(9, 1e-3), ())
            config = dict(zip(table.space.names, map(int, widths), strict=True))
            store.add(begun, Visit(config, 0, number, metric, pairs, float(number), 0.1, Disturbance(0.1, 0.0, 0)))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fits")


@pytest.fixture(scope="module")
def store(folder):
    return write_store(folder / "p.db", simulated_profile(60))


@pytest.fixture(autouse=True)
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def refused(line, words, code=2):
    said = run(line)
    assert (said.code, said.out) == (code, "")
    assert words in said.err
    sentence = said.err.strip().splitlines()
    assert len(sentence) == 1, said.err
    return sentence[0]


def test_a_store_is_fitted_as_its_table_is(store):
    with Store(store) as opened:
        table = opened.table()
    cost = ecc.fit(store, "latency", form="bilinear")
    assert cost.coefficients == fit_bilinear(table, "latency").coefficients
    assert ecc.judge(str(store), form="bilinear").to_json() == ecc.judge(table, "latency", form="bilinear").to_json()
    low, high = cost.interval({})
    assert 0 < float(low) < float(cost({})) < float(high)


def test_json_has_the_fields_of_the_interface(store):
    said = run("fit p.db --metric latency --form bilinear -o cost.json --json --quiet")
    assert (said.code, said.err) == (0, "")
    fields = {"form", "samples", "holdout", "noise_floor", "interval_coverage", "coefficients", "learning_curve"}
    assert fields | {"forms", "chosen_because"} <= set(said.value)
    assert said.value["chosen_because"] == "bilinear was asked for"
    assert [each["form"] for each in said.value["forms"]] == ["bilinear"]
    assert load("cost.json").holdout == said.value["holdout"]


def test_auto_says_what_it_chose_from_and_why(store, monkeypatch):
    quick = {name: FORMS[name] for name in ("bilinear", "factored", "additive")}
    monkeypatch.setattr(judging, "FORMS", quick)
    said = run("fit p.db -o cost.json")
    assert said.code == 0
    assert "left out: it needs an operator profile of the device (--operators)" in said.out
    assert "bilinear" in said.out
    assert "held-out error" in said.out
    assert "factored" in said.out


def test_an_error_above_the_users_exits_with_1_and_still_writes(store, folder):
    said = run("fit p.db --form bilinear --max-error 0.1% -o missed.json")
    assert said.code == 1
    assert "above --max-error 0.1 %" in said.out
    assert (folder / "missed.json").exists()


def test_more_samples_are_advised_only_where_the_noise_leaves_room(folder):
    write_store(folder / "noisy.db", simulated_profile(30, noise=0.1))
    fit = ecc.judge("noisy.db", form="bilinear")
    held, floor = fit.holdout["mape"], fit.noise_floor
    for asked, advice in ((floor / 2, False), (floor * 1.1, False), ((held + floor * 1.25) / 2, True)):
        said = run(f"fit noisy.db --form bilinear --max-error {asked} -o missed.json")
        assert said.code == 1
        assert ("; profile more samples" in said.out) is advice
        assert ("more rows will not bring it there" in said.out) is not advice


def test_what_cannot_carry_a_fit_is_refused_in_one_sentence(folder):
    table = simulated_profile(40)
    write_store(folder / "few.db", replace(table, widths=table.widths[:9], rows=table.rows[:9]))
    refused("fit few.db -o o.json", "holds 9 rows of latency, a fit needs at least 10; profile more samples")
    widths = table.widths.copy()
    widths[:, 1] = 32
    write_store(folder / "constant.db", replace(table, widths=widths))
    refused("fit constant.db -o o.json", "group 'a' was only measured at width 32; profile with widths that vary")
    flat = table.rows.assign(latency_ratio=1.0)
    write_store(folder / "flat.db", replace(table, rows=flat))
    refused("fit flat.db -o o.json", "all profile rows have the same latency")
    odd = table.rows["latency_ratio"].to_numpy(copy=True)
    odd[3] = 1e9
    write_store(folder / "odd.db", replace(table, rows=table.rows.assign(latency_ratio=odd)))
    refused("fit odd.db -o o.json", "profile row 3 has a latency of 1e+09 of dense, which no network has")


def test_wrong_requests_are_refused_in_one_sentence(store, folder):
    refused("fit p.db --metric energy -o o.json", "energy of made up was not measured on simulated device")
    refused("fit p.db --form oracle -o o.json", "invalid choice: 'oracle'")
    refused("fit p.db --form additive -o o.json", "form additive is composed of what operators cost")
    refused("fit p.db --form bilinear --operators p.db -o o.json", "form bilinear makes no use of an operator profile")
    refused("fit p.db --operators p.db -o o.json", "holds a profile of made up, not of operators")
    for text in ("0", "nan", "5", "-1", "0%", "100%", "few"):
        refused(
            f"fit p.db --max-error {text} -o o.json",
            f"--max-error must be a share between 0 and 1 such as 0.05 or 5%, got '{text}'",
        )
    refused("fit . -o o.json", "profile store '.' is a folder; give the file that `ecc profile` has written")
    refused("fit nothing.db -o o.json", "does not exist; make it with `ecc profile")
    assert not (folder / "o.json").exists()


@pytest.mark.parametrize(
    "change",
    ["UPDATE runs SET runtime = 'onnxruntime' WHERE id = 2", "UPDATE runs SET device = 2 WHERE id = 2"],
    ids=["runtimes", "devices"],
)
def test_rows_of_several_origins_are_refused(store, folder, change):
    mixed = folder / "mixed.db"
    mixed.unlink(missing_ok=True)
    write_store(mixed, simulated_profile(30))
    with sqlite3.connect(mixed) as connection:
        connection.execute("INSERT INTO devices (id, fingerprint, name) VALUES (2, 'cafe', 'another device')")
        connection.execute(
            "INSERT INTO runs "
            "SELECT 2, network, device, runtime, threads, provenance, protocol, seed, started FROM runs"
        )
        connection.execute("UPDATE rows SET run = 2 WHERE id > 15")
    run("fit mixed.db --form bilinear -o o.json")  # two runs on one device belong together
    with sqlite3.connect(mixed) as connection:
        connection.execute(change)
    connection.close()
    sentence = refused("fit mixed.db --form bilinear -o o.json", "mixes rows of several origins")
    assert "made up (f00d)" in sentence


def test_a_damaged_cost_model_is_refused_before_any_work(store, folder):
    (folder / "net.py").write_text(NETWORK)
    assert run("fit p.db --form bilinear -o damaged.json").code == 0
    document = json.loads((folder / "damaged.json").read_text())
    (folder / "damaged.json").write_text(json.dumps(document | {"constant": "1"}))
    line = "compress net.py:small --data digits --budget latency=0.5 --cost {} --out out"
    refused(line.format("damaged.json"), "'damaged.json' is damaged or not from this program")
    refused("inspect damaged.json", "'damaged.json' is damaged or not from this program")
    (folder / "damaged.json").write_text(json.dumps(document))
    refused(line.format("damaged.json"), "belongs to another network (made up)")


# -- widths that were not profiled


@pytest.fixture(scope="module")
def narrow():
    """A network, its graph, and a cost model whose profile ends at half of each group."""
    names = {}
    exec(NETWORK, names)
    torch.manual_seed(0)
    model = names["Small"](16).eval()
    graph = trace(model, torch.zeros(1, 1, 8, 8))
    table = simulated_profile(60, net=(graph.space, graph.layers), cost=lambda w: 0.1 + 0.9 * w.mean(1) ** 2)
    dense = np.array(graph.space.dense)
    widths = np.array(list(itertools.product(range(8, 17), repeat=len(dense))))
    widths = np.random.default_rng(0).permutation(widths)[:60]
    widths[0] = 8
    widths = np.unique(widths, axis=0)
    ratio = 0.1 + 0.9 * (widths / dense).mean(1) ** 2
    rows = table.rows[: len(ratio)].assign(latency_ratio=ratio)
    where = replace(table.provenance, fingerprint=graph.fingerprint)
    table = replace(table, widths=widths, rows=rows, provenance=where)
    return model, graph, table


def test_a_model_refuses_widths_that_were_not_profiled_unless_asked(narrow):
    _, graph, table = narrow
    cost = ecc.fit(table, form="bilinear")
    with pytest.raises(
        InputError, match=r"was profiled at widths from 8 to 16, so the latency at 4 is unknown; .*--ext"
    ):
        cost({graph.space.names[0]: 4})
    with pytest.raises(InputError, match="was profiled at widths from 8 to 16"):
        cost.interval({graph.space.names[0]: 4})
    assert cost.floor == dict.fromkeys(graph.space.names, 8)
    free = ecc.fit(table, form="bilinear", extrapolate=True)
    assert float(free({graph.space.names[0]: 4})) > 0
    assert free.floor == graph.space.smallest


def test_solvers_go_no_lower_than_what_was_profiled(narrow):
    model, graph, table = narrow
    cost = ecc.fit(table, form="bilinear")
    (limit,) = constraints_of(graph, [Budget.parse("latency<=0.5")], [cost])
    floor = floor_of(graph.space, [cost])
    problem = Problem(model, graph.prunable, graph.space, load_data("digits").task(), (limit,), 0, floor)
    assert Limits(problem).lowest.tolist() == [8.0] * len(graph.space)
    for solver in (Uniform(), Magnitude()):
        solved = solver.solve(problem)
        assert all(width >= floor[name] for name, width in solved.widths.items())
        assert float(cost(solved.widths)) <= limit.limit


def test_a_budget_below_what_was_profiled_is_refused_with_the_way_out(narrow):
    model, graph, table = narrow
    task, budgets, inputs = load_data("digits").task(), [Budget.parse("latency<=0.2")], torch.zeros(1, 1, 8, 8)
    cost = ecc.fit(table, form="bilinear")
    words = r"still needs .*0\.3\d+ of dense.*; widths below those that were profiled are not looked at: "
    with pytest.raises(InputError, match=words):
        job_of(model, graph, task, [tuple(budgets)], [cost], inputs)
    free = ecc.fit(table, form="bilinear", extrapolate=True)
    assert job_of(model, graph, task, [(Budget.parse("latency<=0.25"),)], [free], inputs).targets


def test_a_problem_s_floor_must_be_admissible(narrow):
    model, graph, _ = narrow
    with pytest.raises(InputError, match="is not admissible"):
        Problem(model, graph.prunable, graph.space, None, (), 0, {graph.space.names[0]: 99})


def test_the_command_line_passes_the_wish_on(narrow, folder):
    _, graph, table = narrow
    (folder / "net.py").write_text(NETWORK)
    write_store(folder / "narrow.db", table)
    model = load_model("net.py:small").module
    assert trace(model, torch.zeros(1, 1, 8, 8)).space == graph.space
    line = "compress net.py:small --data digits --budget latency=0.2 --cost narrow.json --out out"
    assert run("fit narrow.db --form bilinear -o narrow.json").code == 0
    refused(line, "widths below those that were profiled are not looked at")
    assert run("fit narrow.db --form bilinear --extrapolate -o narrow.json").code == 0
    assert "below those that were profiled" not in run(line).err
    assert load("narrow.json").extrapolate


def test_tables_of_operators_are_no_profiles_of_a_network():
    space, layers = residual_net()
    table = simulated_profile(20, net=(space, layers))
    from ecc.core.operators import COLUMNS
    from ecc.core.widths import WidthSpace

    names = ("kind", *COLUMNS)
    of_operators = replace(table, space=WidthSpace(names, (4,) * len(names), (1,) * len(names)))
    with pytest.raises(InputError, match="holds operators, not widths of a network"):
        ecc.judge(of_operators, "latency")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"table": 5}, "a profile cannot be of type int; give what ecc.profile returned, or the file of a store"),
        ({"seed": "a"}, "seed must be a whole number from 0 to 4294967295, got 'a'"),
        ({"table": simulated_profile(30).rows}, "a profile cannot be of type DataFrame; give what"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"operators": 5, "form": "additive"}, "5 is no operator profile"),
        ({"operators": 5}, "5 is no operator profile"),
    ],
)
def test_arguments_of_other_kinds_are_refused(given, words):
    for read in (ecc.fit, ecc.judge):
        with pytest.raises(InputError, match=words):
            read(**{"table": simulated_profile(30), **given})


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_tensors_of_other_groups_are_refused(shape):
    cost = ecc.fit(simulated_profile(60), form="bilinear")
    groups = len(cost.space)
    for ask in (cost, cost.interval):
        with pytest.raises(InputError, match=f"the network has {groups} groups; give a tensor of shape"):
            ask(torch.zeros(shape))


@pytest.mark.parametrize("level", [0, 1, 95, float("nan"), "95%", None])
def test_levels_that_are_no_share_are_refused(level):
    table = simulated_profile(30)
    cost = ecc.fit(table, form="bilinear")
    for call, ask in (
        ("interval", lambda: cost.interval({}, level)),
        ("diagnose", lambda: ecc.diagnose(cost, table, level=level)),
    ):
        with pytest.raises(InputError, match=re.escape(f"{call}(level=...) must be in (0, 1), got {level!r}")):
            ask()
    with pytest.raises(InputError, match=r"judge\(holdout=...\) must be in \[0.1, 1/3\]"):
        ecc.judge(table, form="bilinear", holdout=level)


@pytest.mark.parametrize("form", ["macs", "bilinear", "staircase", "factored", "mlp"])
def test_a_fitted_model_is_one_line_for_people(form):
    found = ecc.fit(simulated_profile(30), form=form)
    assert re.fullmatch(r"\w+Cost\(latency \S+ s dense, 30 rows, held-out MAPE \S+%\)", repr(found))


def test_a_profile_whose_dense_value_has_no_interval_is_refused():
    with pytest.raises(InputError, match=r"must be \(value, low, high\), got 1 numbers"):
        ecc.fit(replace(simulated_profile(30), reference={"latency": (1e-3,)}), form="bilinear")
