from pathlib import Path

import pytest
from cli_toy import run

from ecc.cli import demo
from ecc.profiler.window import Window


@pytest.mark.slow
def test_demo_tells_the_whole_story_and_finds_it_finished_the_second_time(tmp_path, monkeypatch):
    window = Window(device_warm_up_s=0.1, pairs=4, burst=2, blocks=2, max_blocks=2, max_s=3.0)
    monkeypatch.setattr(demo, "_QUICK", demo.Scale(4, 12, 16, 2, 0.2, 0.5, window))
    line = f"demo --quick --device cpu --budget 0.7 --out {tmp_path / 'demo'} --json"
    said = run(line)
    value = said.value
    assert {"accuracy_dense", "accuracy", "budget", "predicted", "measured", "verified", "seconds"} <= set(value)
    assert value["cost_model"]["mape"] > 0
    assert (value["budget"], said.code) == (0.7, int(value["verified"] is False))
    assert 0 < value["measured"] < 1
    assert Path(value["report"]).is_file()
    assert {"manifest.json", "weights.safetensors"} <= {path.name for path in Path(value["artefact"]).iterdir()}
    again = run(line)
    assert [line for line in again.err.splitlines() if "finished before" in line] == [
        *(f"{method}: finished before, in {tmp_path / 'demo' / method}" for method in demo._METHODS),
        f"deep-compression and entropy: finished before, in {tmp_path / 'demo' / 'packed'}",
    ]
    assert again.value["measured"] == value["measured"]
