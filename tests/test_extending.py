"""docs/extending.md holds: its parts, installed as a package, are found by name and do what the page says."""

import json
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from ecc.core.errors import InputError
from ecc.core.parts import Parts

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'```python title="(\w+\.py)"\n(.*?)```', PAGE, flags=re.DOTALL))
USES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
(PROJECT,) = re.findall(r'```toml title="pyproject.toml"\n(.*?)```', PAGE, flags=re.DOTALL)

BEFORE = """
import json, time
import torch
from ecc.profiler.window import Window
quick = Window(device_warm_up_s=0, warm_up_s=0, warm_up_runs=1, blocks=1, max_blocks=1, pairs=2, burst=1, idle_s=0)
Window.of = classmethod(lambda cls, kind: quick)
import my_meter
class Sinking(my_meter.Battery):  # 40 W, since there is no battery here
    shortest_window_s = 1e-4
    def joules(self):
        return -40 * time.perf_counter()
my_meter.FOLDER = my_meter.Path()
my_meter.Battery = Sinking
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Conv2d(1, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 32, 3, padding=1), torch.nn.ReLU(),
    torch.nn.Flatten(), torch.nn.Linear(32 * 64, 4),
).eval()
inputs = torch.randn(4, 1, 8, 8)
targets = inputs.flatten(1)[:, :4].argmax(1)
train = validation = [(inputs, targets)]
"""
AFTER = """
from ecc.profiler.store import Store
print(json.dumps({
    "energy": [Store("battery.db").table().provenance.energy_source, cost.metric],
    "runtime": Store("channels-last.db").table().provenance.runtime,
    "form": [found.form, again.form, type(again).__name__, again.exponents == found.cost.exponents],
    "mape": found.holdout["mape"],
    "method": [result.recipe.method, result.recipe.options, result.met],
    "stage": [each.name for each in ecc.stage(model, ["ternary"]).stages],
    "values": sorted({len(w.unique()) for n, w in staged.model.state_dict().items() if w.ndim > 1}),
    "ratio": staged.ratio,
}))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page's files and what pip writes of its pyproject.toml."""
    folder = tmp_path_factory.mktemp("extending")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    project = tomllib.loads(PROJECT)["project"]
    info = folder / f"my_parts-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = [
        line
        for group, points in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    (folder / "BAT0").mkdir()
    (folder / "BAT0" / "energy_now").write_text("0")
    return folder


def test_parts_of_another_package_are_found_by_name_and_work(folder):
    script = "\n".join([BEFORE, *USES, AFTER])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["energy"] == ["battery gauge", "energy"]
    assert said["runtime"] == "channels-last"
    assert said["form"] == ["power", "power", "PowerCost", True]
    assert said["mape"] > 0
    assert said["method"] == ["random", {"random.tries": 20}, True]
    assert said["stage"] == ["ternary"]
    assert max(said["values"]) <= 3
    assert said["ratio"] > 8


def declared(monkeypatch, value, read=lambda name, found: found):
    points = [EntryPoint("own", value, "ecc.things"), EntryPoint("theirs", value, "ecc.things")]
    monkeypatch.setattr("ecc.core.parts.entry_points", lambda group: points if group == "ecc.things" else [])
    return Parts("ecc.things", {"own": 1}, read)


def test_the_packages_own_names_come_first_and_cannot_be_taken(monkeypatch):
    parts = declared(monkeypatch, "math:pi")
    assert list(parts) == ["own", "theirs"]
    assert len(parts) == 2
    assert parts["own"] == 1
    assert 3.1 < parts["theirs"] < 3.2
    assert parts.get("nobodys") is None


def test_a_part_is_imported_when_its_name_is_used_and_not_before(monkeypatch):
    parts = declared(monkeypatch, "there_is_no_such_module:thing")
    assert "theirs" in parts
    assert repr(parts) == "Parts(ecc.things: own, theirs)"
    with pytest.raises(
        InputError, match=r"'theirs' is declared for ecc.things as there_is_no_such_module:thing, which"
    ):
        parts["theirs"]


def test_what_is_no_such_part_is_refused(monkeypatch):
    from ecc.energy_models.forms import _as_form
    from ecc.profiler.runtimes import _as_factory
    from ecc.solvers.methods import _as_method
    from ecc.stages.methods import _as_stage

    for read in (_as_form, _as_factory, _as_method, _as_stage):
        with pytest.raises(InputError, match=r"(form|runtime|method|stage) 'theirs' must be .*, got 3\.14"):
            declared(monkeypatch, "math:pi", read)["theirs"]
