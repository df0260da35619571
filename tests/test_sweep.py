"""Sweeps end to end: what is finished stays, what failed is told, what is missing is run, whatever happened before."""

import json
import os
import re
import shutil
import signal

import pytest
from sweep_cases import run_inline, weights_of, write_job

import ecc
from ecc.cli import sweep as command
from ecc.cli.main import main
from ecc.sweeps.beacon import Beacon
from ecc.sweeps.engines.protocol import Ended, out_of_time
from ecc.sweeps.ledger import Ledger


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    """No sweep of this machine's user makes these wait, nor they it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))


@pytest.fixture
def engine(monkeypatch):
    return run_inline(monkeypatch)


def _sweep(capsys, *given):
    code = main(["sweep", *map(str, given), "--json", "--quiet"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if code in (0, 1) else said.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished sweep of two jobs, to be copied."""
    place = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(place))
        run_inline(patch)
        assert main(["sweep", str(write_job(place)), "--out", str(place / "out"), "--quiet", "--json"]) == 0
    return place / "out"


@pytest.fixture
def copied(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "out")
    return tmp_path / "out"


_FRONT = command._front


def test_a_job_that_fails_is_told_and_stops_nothing_and_resume_runs_it_alone(
    engine, copied, tmp_path, capsys, monkeypatch
):
    job = write_job(tmp_path)
    monkeypatch.setattr(command, "_front", _FRONT)
    good = job.read_text()
    bad = '{method = "uniform", label = "hasty", lr = 1e30}'
    job.write_text(good.replace('["uniform", ', f'[{bad}, "uniform", '))
    code, value = _sweep(capsys, job, "--out", copied, "--resume")
    assert code == 1
    assert (value["jobs"], value["done"], value["failed"], value["ran"]) == (3, 2, 1, 1)
    (failure,) = value["failures"]
    assert failure["id"].startswith("tiny-hasty-macs-0.5-s0-")
    assert engine.ran == [failure["id"]]
    assert "stopped being a finite number" in failure["error"]
    with open(failure["traceback"]) as file:
        told = file.read()
    assert told.startswith(failure["error"])
    assert "Traceback" in told
    assert os.path.isfile(value["front"])
    assert set(value["hypervolume"]) >= {"uniform", "magnitude"}

    run_inline(monkeypatch)
    code, value = _sweep(capsys, job, "--out", copied, "--resume")
    assert (code, value["ran"], value["failed"]) == (1, 1, 1)  # it is tried again

    job.write_text(good)
    code, value = _sweep(capsys, job, "--out", copied, "--resume")
    assert (code, value["jobs"], value["done"], value["failed"], value["ran"]) == (0, 2, 2, 0, 0)


def test_a_job_that_took_too_long_is_told_and_resume_runs_it_again(engine, copied, tmp_path, capsys, monkeypatch):
    job = write_job(tmp_path)
    job.write_text("timeout_s = 7\n" + job.read_text())
    lost = sorted(copied.glob("jobs/*.json"))[0]
    shutil.rmtree(lost.with_suffix(""))
    run, seen = engine.run, []

    def late(units, work):
        for unit in units:
            seen.append(unit.timeout_s)
            yield Ended(unit.id, None, out_of_time(unit), worker="here")

    monkeypatch.setattr(engine, "run", late)
    code, value = _sweep(capsys, job, "--out", copied, "--resume")
    assert (code, value["done"], value["failed"], seen) == (1, 1, 1, [7.0])
    assert value["failures"][0]["error"].startswith("it took longer than 7 s (timeout_s)")
    monkeypatch.setattr(engine, "run", run)
    code, value = _sweep(capsys, job, "--out", copied, "--resume")
    assert (code, value["done"], value["ran"]) == (0, 2, 1)


def test_from_python_the_same_jobs_run_and_their_front_is_written(engine, copied, tmp_path):
    job = write_job(tmp_path)
    with pytest.raises(ecc.InputError, match="holds a sweep already"):
        ecc.sweep(job, out=copied)
    job.write_text(
        job.read_text().replace('["uniform", ', '[{method = "uniform", label = "hasty", lr = 1e30}, "uniform", ')
    )
    told = []
    swept = ecc.sweep(str(job), out=copied, resume=True, progress=lambda *said: told.append(said))
    assert (swept.jobs, len(swept.done), len(swept.failed), swept.missed) == (3, 2, 1, [])
    assert repr(swept) == f"Swept(2 of 3 jobs done, 1 failed, {str(copied)!r})"
    assert [said[:3] for said in told] == [("jobs", 1, 1)]
    assert told[0][3].endswith(" failed")
    assert sorted(swept.artefacts) == sorted(path.parent for path in copied.glob("jobs/*/manifest.json"))
    assert set(swept.front().methods) == {"uniform", "magnitude"}
    assert (copied / "front.html").is_file()
    assert "stopped being a finite number" in swept._repr_html_()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"engine": "slurm"}, "engine 'slurm' is unknown; choose from local, ray"),
        ({"workers": 0}, "workers must be a whole number from 1, got 0"),
        ({"address": "head:1"}, "an address is of the engine ray"),
    ],
    ids=["engine", "workers", "address"],
)
def test_what_a_sweep_cannot_take_is_refused_before_anything(tmp_path, given, told):
    with pytest.raises(ecc.InputError, match=told):
        ecc.sweep(tmp_path / "no.toml", **given)


def test_a_folder_with_a_sweep_or_anything_else_is_not_overwritten(engine, copied, tmp_path, capsys):
    job = write_job(tmp_path)
    code, said = _sweep(capsys, job, "--out", copied)
    assert code == 2
    assert "holds a sweep already, with 2 of these 2 jobs done; run what is missing with --resume" in said
    code, said = _sweep(capsys, job, "--out", tmp_path)
    assert code == 2
    assert "is there and holds no sweep" in said
    with Ledger(copied).claimed():
        code, said = _sweep(capsys, job, "--out", copied, "--resume")
    assert code == 3
    assert "is being run by another process" in said
    assert engine.ran == []


@pytest.mark.parametrize("harm", ["no record", "torn record", "no artefact"])
def test_what_is_missing_is_found_whatever_was_lost(engine, copied, tmp_path, capsys, harm):
    lost = sorted(copied.glob("jobs/*.json"))[0]
    before = weights_of(copied)
    if harm == "no record":  # killed between the artefact and its record
        lost.unlink()
    elif harm == "torn record":
        lost.write_bytes(lost.read_bytes()[:40])
    else:
        shutil.rmtree(lost.with_suffix(""))
    code, value = _sweep(capsys, write_job(tmp_path), "--out", copied, "--resume")
    assert (code, value["done"]) == (0, 2)
    assert engine.ran == ([lost.stem] if harm == "no artefact" else [])
    assert weights_of(copied) == before  # the same network, to the bit


def test_points_are_the_same_in_any_order_and_dense_networks_are_trained_once(engine, finished, tmp_path, capsys):
    job = write_job(tmp_path)
    job.write_text(job.read_text().replace('["uniform", "magnitude"]', '["magnitude", "uniform"]'))
    code, _ = _sweep(capsys, job, "--out", tmp_path / "other")
    assert code == 0
    assert [id.rpartition("-")[0] for id in engine.ran] == [
        "tiny",
        "tiny-magnitude-macs-0.5-s0",
        "tiny-uniform-macs-0.5-s0",
    ]
    assert weights_of(tmp_path / "other") == weights_of(finished)


def test_an_interrupted_job_goes_on_from_its_checkpoint(engine, finished, tmp_path, capsys, monkeypatch):
    shown, seen = Beacon.show, []

    def show(self, stage, done, total, note=""):
        seen.append((stage, done))
        if stage == "tune" and done == 6:
            signal.raise_signal(signal.SIGINT)
        shown(self, stage, done, total, note)

    job, out = write_job(tmp_path), tmp_path / "out"
    monkeypatch.setattr(Beacon, "show", show)
    code, said = _sweep(capsys, job, "--out", out)
    assert code == 130
    assert "interrupted; 0 of 2 jobs are done" in said
    resume = said.strip().splitlines()[-1].removeprefix("resume with: ")
    assert resume == f"ecc sweep {job} --resume --out {out} --json --quiet"
    assert list(out.glob("jobs/.*.work/tune.safetensors"))
    monkeypatch.setattr(Beacon, "show", lambda self, stage, done, *rest: seen.append((stage, done)))
    seen.clear()
    assert main(resume.split()[1:]) == 0
    first = [done for stage, done in seen if stage == "tune"]
    assert first[0] >= 6  # not from the beginning
    assert weights_of(out) == weights_of(finished)
    assert not list(out.glob("jobs/.*.work"))


def test_inspect_tells_what_is_done_and_what_is_left(copied, capsys):
    sorted(copied.glob("jobs/*.json"))[0].with_suffix("").rename(copied / "gone")
    assert main(["inspect", str(copied)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"tiny +magnitude +macs=0.5 +0 +to do", said)
    assert re.search(r"tiny +uniform +macs=0.5 +0 +accuracy [0-9.]+ %, budgets met", said)
    assert "1 of 2 jobs done, 0 failed, 1 to do" in said


def test_stages_are_applied_to_what_is_done_and_only_once(engine, copied, tmp_path, capsys):
    job = write_job(tmp_path)
    job.write_text(
        job.read_text() + '[[stages]]\nname = "small"\napply = ["codebook", "huffman"]\noptions.codebook.bits = 4\n'
    )
    before = weights_of(copied)
    code, value = _sweep(capsys, job, "--out", copied, "--resume")
    assert (code, value["done"], len(engine.ran)) == (0, 2, 2)
    assert weights_of(copied) == before
    for result in value["results"]:
        small = json.loads((copied / "staged" / "small" / result["id"] / "manifest.json").read_text())
        assert small["files"]["weights.ecz"]["bytes"] == result["staged"]["small"]["bytes"]
    code, value = _sweep(capsys, job, "--out", copied, "--resume")
    assert (code, value["ran"]) == (0, 0)


def test_a_network_that_knows_nothing_fails_its_jobs_with_one_sentence(engine, tmp_path, capsys):
    job = write_job(tmp_path)
    job.write_text(job.read_text().replace("pretrain = 4\n", ""))
    code = main(["sweep", str(job), "--out", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert code == 1
    assert said.out.count("hardly better than chance") == 1
    assert "and 1 more failed" in said.out
    assert "0 of 2 jobs done, 2 failed" in said.out


def test_checking_lists_the_jobs_and_runs_nothing(engine, tmp_path, capsys):
    code, value = _sweep(capsys, write_job(tmp_path), "--check", "--out", tmp_path / "out")
    assert (code, value["jobs"], value["done"], engine.ran) == (0, 2, 0, [])
    assert [(one["method"], one["budgets"], one["seed"]) for one in value["plan"]] == [
        ("uniform", ["macs=0.5"], 0),
        ("magnitude", ["macs=0.5"], 0),
    ]
    assert not (tmp_path / "out").exists()
