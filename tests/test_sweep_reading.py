"""Job files: every mistake is named with its line before anything runs, and ids of jobs stay."""

import re
import tomllib
from pathlib import Path

import pytest
import safetensors.torch
from hypothesis import given
from hypothesis import strategies as st
from sweep_cases import write_job

from ecc.api.stage_options import stages_of
from ecc.api.weight_recipe import recipe_of
from ecc.core.errors import InputError
from ecc.sweeps.checking import checked
from ecc.sweeps.lines import lines_of
from ecc.sweeps.plan import plan_of
from ecc.sweeps.reading import draft_of, read_job_file
from ecc.zoo.loading import load_model

_JOBS = sorted((Path(__file__).parents[1] / "experiments" / "jobs").glob("*.toml"))

_DOCUMENT = """\
# values are the lines that they stand on
a = 2
b.c = [3,
  4, # ] a comment
  {x = 5, "y.z" = {w = 5}}]
text = "]} = # \\" ["
long = \"\"\"
[no.table]
a = 0 \\
\"\"\"
'q [' = 11
lit = '''
= ' ]
'''
[t]
u = [[16, 16], [
    17]]
[t.deep."er"]
v = 19
[[s]]
n = 21
when = 1979-05-27 07:32:00
[s.inner]
m = 24
[[s]]
n = 26
[[s.more]]
k = 28
"""


def _leaves(value, path=()):
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _leaves(each, (*path, key))
    elif isinstance(value, list):
        for place, each in enumerate(value):
            yield from _leaves(each, (*path, place))
    elif isinstance(value, int):
        yield path, value


@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["unix", "windows"])
def test_lines_are_those_on_which_values_stand(end):
    lines = lines_of(_DOCUMENT.replace("\n", end))
    found = dict(_leaves(tomllib.loads(_DOCUMENT)))
    assert found
    assert {path: lines[path] for path in found} == found


_keys = st.text(st.characters(codec="ascii", exclude_categories=("Cc",)), min_size=1, max_size=5)
_values = st.recursive(
    st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=8) | st.integers(-9, 9) | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=8,
)


def _toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",\n".join(map(_toml, value)) + "]"
    if isinstance(value, int):
        return str(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(st.dictionaries(_keys, _values, max_size=4))
def test_every_value_of_any_document_has_a_line(document):
    text = "\n".join(f"{_toml(key)} = {_toml(value)}" for key, value in document.items())
    tomllib.loads(text)
    lines = lines_of(text)
    for path, _ in _leaves(document):
        assert 1 <= lines[path] <= text.count("\n") + 1


def test_all_mistakes_of_a_text_are_named_with_their_lines(tmp_path):
    path = write_job(
        tmp_path,
        """\
timeout_s = 0
seeds = [0, 0, -1]
budgets = ["latency=0.5", "latency=50%", "speed=2",
  ["macs=0.5", "macs=0.4"]]
methods = ["admm", "uniforn", {method = "netadapt", epochs = 0, lrr = 1}]
x = "watts"
trainning = 3
[training]
epochs = "many"
options.train.optimizer = "sgd"
options.admn.rho = 5
[[networks]]
model = "zoo:resnet20"
options = {widths = [1, 2]}
[[stages]]
name = "int8"
""",
    )
    with pytest.raises(InputError) as caught:
        read_job_file(path)
    first, *told = str(caught.value).split("\n  ")
    assert first == f"{path} has {len(told)} mistakes"
    expected = [
        (1, "timeout_s must be a number of seconds above 0, got 0"),
        (2, "seed 0 is given twice"),
        (2, "a seed must be a whole number from 0"),
        (3, "budget latency=50% is given twice"),
        (3, "metric 'speed' is unknown"),
        (4, "on different metrics, got macs, macs"),
        (5, "method 'uniforn' is unknown; did you mean uniform?"),
        (5, "epochs must be a whole number from 1, got 0"),
        (5, "a method has no setting 'lrr'"),
        (6, "axis 'watts' is unknown"),
        (7, "a job file has no setting 'trainning'; did you mean training?"),
        (9, "epochs must be a whole number from 1, got 'many'"),
        (11, "option 'admn.rho' is of no part of a job; did you mean admm?"),
        (12, "data is missing"),
        (13, "the weights of zoo:resnet20 are random"),
        (14, "option widths of a factory must be a number"),
        (15, "apply is missing"),
    ]
    for line, text in expected:
        assert any(one.startswith(f"line {line}: ") and text in one for one in told), (line, text, told)
    assert len(told) == len(expected)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a = [1\nb = 2", "is no TOML: .*line 2"),
        (b"\xff\xfe", "is no text in UTF-8"),
        (b"", "networks are missing"),
    ],
    ids=["no TOML", "no UTF-8", "empty"],
)
def test_what_is_no_job_file_is_refused_in_a_sentence(tmp_path, content, told):
    path = tmp_path / "job.toml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=told):
        read_job_file(path)


def test_a_job_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_job_file(tmp_path / "job.toml")


def test_what_a_job_file_names_is_opened_and_fitted_together_before_anything_runs(tmp_path):
    path = write_job(
        tmp_path,
        """\
budgets = ["macs=0.5", "macs=0.0001", "latency=0.5"]
methods = [
  "uniform",
  {method = "admm", options = {rhoo = 5}},
  {method = "magnitude", epochs = 3, options.tune.warmup_epochs = 9},
  {method = "projected-sgd", budgets = ["latency=0.5"]},
]
[training]
device = "cpu"
[[networks]]
name = "tiny"
model = "tiny.py:net"
data = "tiny.py:blobs"
weights = "no.safetensors"
[[networks]]
name = "wrong"
model = "tiny.py:nett"
data = "tiny.py:blobs"
[[networks]]
name = "costly"
model = "tiny.py:net"
data = "tiny.py:blobbs"
[networks.costs]
cpu = ["no.json"]
npu = "systolic:no"
""",
    )
    with pytest.raises(InputError) as caught:
        checked(read_job_file(path))
    told = str(caught.value).split("\n  ")[1:]
    expected = [
        (1, "network tiny, methods uniform, admm, magnitude: .*macs"),
        (1, "network tiny, methods uniform, admm, magnitude: budget latency needs a cost model of latency"),
        (4, "option admm.rhoo is unknown"),
        (5, "option tune.warmup_epochs must be within"),
        (6, "network tiny, method projected-sgd: .*cannot keep a budget on latency"),
        (14, "there is no such file"),
        (17, "has no 'nett'; did you mean net"),
        (22, "has no 'blobbs'; did you mean blobs"),
        (24, "no.json"),
        (25, "no"),
    ]
    for line, text in expected:
        assert any(one.startswith(f"line {line}: ") and re.search(text, one) for one in told), (line, text, told)
    assert len(told) == len(expected), told


_MIXED = """\
budgets = ["macs=0.5", "speed=2", "macs=0.0001", "latency=0.5"]
methods = [
  "uniforn",
  {method = "admm", epoch = 3, options = {rhoo = 5, rhooo = 6}},
  {method = "uniform", options.tune.warmup_epochs = "many"},
]
[training]
device = "gpu0"
thread = 1
[[networks]]
name = "tiny"
model = "tiny.py:net"
data = "tiny.py:blobs"
weights = "no.safetensors"
costs = ["no.json"]
[[networks]]
model = "tiny.py:nett"
data = "tiny.py:blobbs"
weights = "nowhere.safetensors"
seed = -1
[[networks]]
name = "wide"
model = "tiny.py:net"
options = {widht = 3, width = 8}
data = "mnist"
data_dir = "nowhere"
[[stages]]
apply = ["codebok", "prune"]
options.prune.shares = 0.5
options.prune.amounts = 0.5
"""


def test_a_mistake_of_the_text_hides_none_of_what_is_named(tmp_path):
    with pytest.raises(InputError) as caught:
        checked(draft_of(write_job(tmp_path, _MIXED)))
    told = str(caught.value).split("\n  ")[1:]
    expected = [
        (1, "metric 'speed' is unknown"),
        (1, "network tiny, methods admm, uniform: .*macs"),
        (3, "method 'uniforn' is unknown"),
        (4, "a method has no setting 'epoch'"),
        (4, "option admm.rhoo is unknown"),
        (4, "option admm.rhooo is unknown"),
        (5, "tune.warmup_epochs"),
        (8, "device 'gpu0' is unknown"),
        (9, "has no setting 'thread'"),
        (14, "there is no such file"),
        (15, "no.json"),
        (17, "has no 'nett'"),
        (18, "has no 'blobbs'"),
        (19, "nowhere.safetensors: there is no such file"),
        (20, "seed must be a whole number from 0"),
        (24, "widht"),
        (26, "nowhere does not exist"),
        (28, "stage 'codebok' is unknown"),
        (29, "prune.shares is unknown"),
        (30, "prune.amounts is unknown"),
    ]
    for line, text in expected:
        assert any(one.startswith(f"line {line}: ") and re.search(text, one) for one in told), (line, text, told)
    assert len(told) == len(expected), told


def test_budgets_without_a_cost_model_that_cannot_be_read_are_still_looked_at(tmp_path):
    text = """\
budgets = ["macs=0.0001", "energy=0.5"]
methods = ["uniform"]
[[networks]]
model = "tiny.py:net"
data = "tiny.py:blobs"
costs = ["systolic:none"]
"""
    with pytest.raises(InputError) as caught:
        checked(draft_of(write_job(tmp_path, text)))
    told = str(caught.value).split("\n  ")[1:]
    assert [one.partition(":")[0] for one in told] == ["line 1", "line 6"]


def _ids(path, metrics=None):
    return [job.id for job in plan_of(read_job_file(path), metrics=metrics or {}).jobs]


def test_ids_stay_in_any_order_beside_other_jobs_and_in_another_folder(tmp_path):
    one = write_job(tmp_path)
    text = one.read_text()
    (tmp_path / "moved").mkdir()
    other = write_job(
        tmp_path / "moved",
        text.replace('["uniform", "magnitude"]', '["magnitude", "admm", "uniform"]').replace("[0]", "[4, 0]"),
    )
    assert len(set(_ids(one))) == 2
    assert set(_ids(one)) < set(_ids(other))
    assert len(set(_ids(other))) == 6


@pytest.mark.parametrize(
    "change",
    [("epochs = 2", "epochs = 3"), ("macs=0.5", "macs=0.25"), ("pretrain = 4", "pretrain = 5"), ("[0]", "[1]")],
    ids=["epochs", "budget", "dense", "seed"],
)
def test_ids_change_with_all_that_decides_a_result(tmp_path, change):
    path = write_job(tmp_path)
    before = _ids(path)
    path.write_text(path.read_text().replace(*change))
    assert not set(before) & set(_ids(path))


def test_ids_change_with_the_contents_of_files(tmp_path):
    path = write_job(tmp_path)
    before = _ids(path)
    source = tmp_path / "tiny.py"
    source.write_text(source.read_text().replace("width=16", "width=18"))
    after = _ids(path)
    assert not set(before) & set(after)
    weights = tmp_path / "w.safetensors"
    safetensors.torch.save_file({}, weights)
    path.write_text(path.read_text().replace("pretrain = 4", 'weights = "w.safetensors"'))
    with_weights = _ids(path)
    weights.write_bytes(weights.read_bytes() + b" ")
    assert not set(with_weights) & set(_ids(path))


def test_one_seed_of_everything_comes_before_the_next(tmp_path):
    path = write_job(tmp_path)
    path.write_text(path.read_text().replace("seeds = [0]", "seeds = [7, 2]").replace("macs=0.5", "macs=0.5,0.25"))
    jobs = plan_of(read_job_file(path), metrics={}).jobs
    assert [job.seed for job in jobs] == [7] * 4 + [2] * 4
    assert [job.budgets.label for job in jobs[:2]] == ["macs=0.5", "macs=0.25"]


def test_the_example_of_the_guide_is_a_job_file(tmp_path):
    guide = (Path(__file__).parents[1] / "docs" / "sweeps.md").read_text()
    (tmp_path / "digits.toml").write_text(guide.split("```toml\n")[1].split("```")[0])
    file = read_job_file(tmp_path / "digits.toml")
    jobs = plan_of(file, metrics={str(tmp_path / "latency.json"): "latency"}).jobs
    assert len(jobs) == 3 * 3 * 4
    assert {job.method for job in jobs} == {"admm", "uniform", "admm, stiff"}
    assert {job.costs for job in jobs} == {(str(tmp_path / "latency.json"),)}
    stages_of(file.chains[0].apply, dict(file.chains[0].options))
    for method in file.methods:
        recipe_of(method.method, options=method.options, **method.settings)
    load_model(file.networks[0].model, file.networks[0].options)


@pytest.mark.parametrize("path", _JOBS, ids=[path.stem for path in _JOBS])
def test_job_files_of_the_experiments_are_read(path):
    assert plan_of(read_job_file(path), metrics={}).jobs
