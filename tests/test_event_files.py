import builtins

import pytest
from solver_toy import digits_task, mlp, problem

from ecc.core.errors import StorageError, UnavailableError
from ecc.solvers.admm import Admm
from ecc.solvers.event_files import EventFiles
from ecc.solvers.settings import TrainConfig


def test_every_figure_of_every_epoch_can_be_read_back(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    told = []
    training = TrainConfig(epochs=3, lr=2e-3, schedule="constant", dropout=False)
    with EventFiles(tmp_path / "logs", lambda *arguments: told.append(arguments)) as progress:
        found = Admm(training).solve(problem(mlp(), digits_task(), 0.6), progress=progress)
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    history = found.history
    assert set(events.Tags()["scalars"]) == {f"admm/{name}" for name in history.columns.drop(["phase", "epoch"])}
    for name in ("loss", "score", "macs", "z_macs"):
        scalars = events.Scalars(f"admm/{name}")
        assert [scalar.step for scalar in scalars] == history.epoch.tolist()
        assert [scalar.value for scalar in scalars] == pytest.approx(history[name].tolist(), rel=1e-6)
    assert told
    assert {arguments[0] for arguments in told} == {"admm"}


def test_what_is_no_finite_number_is_left_out(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with EventFiles(tmp_path) as progress:
        progress("a", 1, 2)
        progress.after_epoch({"phase": "a", "epoch": 1, "loss": float("nan"), "name": "x", "score": 1})
    assert EventAccumulator(str(tmp_path)).Reload().Tags()["scalars"] == ["a/score"]


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"event files cannot be written to .*give a folder that is writable"):
        EventFiles(tmp_path / "file" / "logs")


def test_without_tensorboard_the_extra_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *rest):
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UnavailableError, match=r"pip install 'ecc-compress\[tensorboard\]'"):
        EventFiles(tmp_path)
