"""Small studies: each is of published rows, and what comes out otherwise is told."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

HERE = Path(__file__).resolve().parent.parent / "experiments"


@pytest.fixture
def small(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    yield __import__("results_small")
    sys.modules.pop("results_small", None)


def test_every_study_is_of_published_rows_with_its_figures(small):
    for study in small.STUDIES:
        if not study.published:
            continue
        frame = pd.read_csv(small.PUBLISHED / study.file)
        rows = small._rows(study, frame)
        assert len(rows) > 3, study.name
        assert {*study.keys, *study.figures} <= set(frame.columns)
        assert all(
            (HERE.parent / word).exists() for command in study.commands for word in command if word[-3:] == ".py"
        )


def test_they_fit_into_half_an_hour_on_two_cores(small):
    minutes = [study.minutes for study in small.STUDIES]
    assert max(max(minutes), sum(minutes) / small.CORES) <= 30


def test_what_is_published_is_the_same_as_itself(small):
    study = small.STUDIES[0]
    rows = small.differences(study, small.PUBLISHED, small.PUBLISHED)
    assert {row["verdict"] for row in rows} == {"same"}
    assert len(rows) == len(study.figures) * len(pd.read_csv(small.PUBLISHED / study.file))


def test_a_difference_has_a_verdict(small, tmp_path):
    study = small.Study("s", "", 1.0, (), "s.csv", ("k",), {"a": 0.1, "met": 0}, {"k": (1, 2, 3, 4, 5)})
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir(), new.mkdir()
    published = pd.DataFrame({"k": range(1, 7), "a": [1.0, 1.0, 1.0, None, 1.0, 9.0], "met": [True] * 6})
    published.to_csv(old / "s.csv", index=False)
    here = pd.DataFrame({"k": [1, 2, 3, 4], "a": [1.0, 1.05, 1.2, None], "met": [True, False, True, True]})
    here.to_csv(new / "s.csv", index=False)
    rows = small.differences(study, old, new)
    verdicts = {(row["row"], row["figure"]): row["verdict"] for row in rows}
    assert verdicts == {
        ("k 1", "a"): "same", ("k 1", "met"): "same",
        ("k 2", "a"): "close", ("k 2", "met"): "differs",
        ("k 3", "a"): "differs", ("k 3", "met"): "same",
        ("k 4", "a"): "same", ("k 4", "met"): "same",
        ("k 5", "a"): "missing", ("k 5", "met"): "missing",
    }  # fmt: skip
    counts = small.summary(rows)
    assert counts.loc["s"].tolist() == [5, 1, 2, 2]
    assert {row["verdict"] for row in small.differences(study, old, tmp_path)} == {"missing"}


def test_a_study_is_done_once_and_what_fails_is_told(small, tmp_path):
    small.prepare(tmp_path)
    (tmp_path / "experiments" / "once.py").write_text("open('made', 'a').write('x')")
    once = small.Study("once", "", 1.0, (("python", "experiments/once.py"),), "", (), {})
    assert small.run(once, tmp_path) == ""
    assert small.run(once, tmp_path) == ""
    assert (tmp_path / "made").read_text() == "x"
    assert json.loads((tmp_path / "work" / "once.json").read_text())["seconds"] >= 0
    (tmp_path / "experiments" / "fails.py").write_text("1 / 0")
    fails = small.Study("fails", "", 1.0, (("python", "experiments/fails.py"),), "", (), {})
    assert small.run(fails, tmp_path).startswith("ended with 1; see ")
    assert not (tmp_path / "experiments" / "measurements" / "cost_models.csv").exists()
