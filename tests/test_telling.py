"""Several processes do one job of ``compress``: all train, the first measures, chooses and writes."""

import math
import os
import signal
import time

import pytest
import torch
import torch.distributed as dist
from device_toy import LawRuler, LineCost
from ranks_toy import together
from torch import nn
from torch.nn import functional as F

from ecc.api.recipe import Recipe
from ecc.api.ruler import Ruler
from ecc.api.verbs import compress, compress_path
from ecc.cli.main import main
from ecc.core.errors import InputError, Interrupted, StorageError, UnavailableError
from ecc.data.loading import load_data
from ecc.energy_models.counting import CountCost
from ecc.network.tracing import trace
from ecc.report.saving import save
from ecc.solvers.distributed import Ranks, first_to_end, has_spoken, join
from ecc.solvers.settings import TrainConfig
from ecc.solvers.training import train

DATA = load_data("digits")
TRAIN, VALIDATION = list(DATA.train)[:4], list(DATA.validation)[:1]
CPU = torch.device("cpu")


class Small(nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.first = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width * 16, 10)

    def forward(self, x):
        x = F.relu(self.second(F.relu(self.norm(self.first(x)))))
        return self.head(F.max_pool2d(x, 2).flatten(1))


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    model = Small()
    data = DATA.task()
    train(model, type(data)(TRAIN, VALIDATION, data.loss, data.score), TrainConfig(epochs=5, lr=5e-3))
    return model.eval()


@pytest.fixture
def ruler(network, monkeypatch):
    """Of a device on which latency falls less than a line says."""
    made = LawRuler.on(network, DATA.example(2), latency=lambda left: 0.4 + 0.6 * left)
    monkeypatch.setattr(Ruler, "of", lambda *_, **__: made)
    return made


def summary(result):
    return {
        "widths": dict(result.widths),
        "met": result.met,
        "used": [check.high / check.limit for check in result.budgets],
        "accuracy": (result.accuracy_dense, result.accuracy),
        "trials": result.trials.to_json(),
        "state": dict(result.model.state_dict()),
    }


def same(one, other):
    states = [each.pop("state") for each in (one, other)]
    return one == other and all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


@pytest.mark.parametrize("method", ["uniform", "knapsack", "admm", "netadapt"])
def test_processes_end_with_one_network_that_the_first_alone_measured_and_kept(network, ruler, tmp_path, method):
    def work(rank):
        cost = LineCost(CountCost("macs", trace(network, DATA.example(2))), metric="latency", unit="s")
        told = []
        result = compress(
            network,
            TRAIN,
            VALIDATION,
            budgets=["latency=0.7", "macs=0.6"],
            costs=[cost],
            method=method,
            epochs=2,
            lr=2e-3,
            folder=tmp_path / f"work{rank}",
            progress=lambda *arguments: told.append(arguments),
        )
        return summary(result) | {"calls": len(ruler.calls), "told": len(told)}

    first, second = together(work, tmp_path)
    assert first["met"] is True
    assert max(first["used"]) > 0.8
    assert first["accuracy"][1] > 0.5
    assert first.pop("calls") > 2
    assert first.pop("told") > 2
    assert second.pop("calls") == second.pop("told") == 0
    assert same(first, second)
    assert any((tmp_path / "work0").iterdir())
    assert not (tmp_path / "work1").exists()


def test_the_weights_of_the_first_process_count_and_it_alone_writes_and_the_models_stay_as_they_are(network, tmp_path):
    def work(rank):
        model = Small()
        model.load_state_dict(network.state_dict())
        with torch.no_grad():
            model.second.weight.mul_(1 + rank)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        recipe = Recipe(method="admm", epochs=3, lr=2e-3)
        results = list(compress_path(model, TRAIN, VALIDATION, budgets="macs=0.7,0.4", recipe=recipe))
        found = [summary(result) for result in results]
        found[0]["artefact"] = dict(save(results[0], tmp_path / "out").state())
        dist.barrier()  # here the first process holds the store
        return found, all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    (first, kept), (second, kept_too) = together(work, tmp_path)
    assert kept
    assert kept_too
    assert len(first) == 2
    written = [first[0].pop("artefact"), second[0].pop("artefact")]
    assert all(torch.equal(state[name], tensor) for state in written for name, tensor in first[0]["state"].items())
    assert all(same(*pair) for pair in zip(first, second, strict=True))


def test_processes_that_were_given_different_jobs_are_refused_all(network, tmp_path):
    def work(rank):
        try:
            compress(network, TRAIN, VALIDATION, budgets=f"macs={0.5 + 0.1 * rank}", method="uniform", epochs=1)
        except InputError as error:
            return str(error)

    for said in together(work, tmp_path):
        assert "were given different networks, budgets" in said


def fails(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (InputError("no such budget"), InputError, "no such budget"),
        (StorageError("disk full"), StorageError, "disk full"),
        (KeyboardInterrupt(), Interrupted, "first process was interrupted"),
        (ZeroDivisionError("by nought"), UnavailableError, "first process failed (ZeroDivisionError: by nought)"),
    ],
)
def test_an_error_of_the_first_process_is_one_in_all(tmp_path, error, kind, text):
    def work(rank):
        ranks, _ = join(None, CPU)
        results = [ranks.told(lambda: {"rank": rank, "least": -math.inf, "tensor": torch.ones(2)})]
        try:
            ranks.told(fails(error))
        except BaseException as found:
            results.append([type(found).__name__, str(found)])
        results.append(ranks.told(lambda: {"after": rank}))  # the processes are still in step
        return results

    first, second = together(work, tmp_path)
    for before, _, after in (first, second):
        assert (before["rank"], before["least"], before["tensor"].tolist()) == (0, -math.inf, [1, 1])
        assert after == {"after": 0}
    assert first[1] == [type(error).__name__, str(error)]
    assert second[1][0] == kind.__name__
    assert text in second[1][1]


def test_only_the_first_to_end_speaks_and_all_end_with_its_code(tmp_path):
    def work(rank):
        join(None, CPU)
        if rank == 1:
            found = [first_to_end(2)]
            dist.barrier()
            time.sleep(0.3)  # it is cut short unless the other one waits
            (tmp_path / "said").touch()
            has_spoken()
        else:
            dist.barrier()
            found = [first_to_end(130), (tmp_path / "said").exists(), first_to_end(3)]
        return found

    assert together(work, tmp_path) == [[(False, 2), True, (False, 2)], [(True, 2)]]


@pytest.mark.parametrize("lost", ["killed", "refused"])
def test_who_waits_for_a_process_that_has_ended_is_told(tmp_path, lost):
    """One that was killed says nothing; one that refuses says so before it goes."""

    def work(rank):
        ranks, _ = join(None, CPU)
        if rank == 1:
            if lost == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            first_to_end(2)
            os._exit(0)
        try:
            ranks.told(lambda: {"alone": True})
        except UnavailableError as error:
            return str(error)

    (said,) = together(work, tmp_path, survivors=1)
    assert "another process of this job has ended" in said


def test_a_process_alone_is_told_by_itself():
    ranks = Ranks()
    assert ranks.told(lambda: {"own": {1: torch.nn}}) == {"own": {1: torch.nn}}  # nothing is packed
    assert ranks.once("save", lambda: 3) == 3
    assert ranks.agree("anything")


@pytest.fixture
def signals():
    """A command that ends under torchrun ignores requests to end from then on; the tests that follow do not."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_commands_for_one_process_are_refused_in_one_voice(monkeypatch, capsys, signals):
    for name in ("LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("0", "ecc devices: this command is for one process; start it without torchrun\n"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        assert main(["devices"]) == 2
        assert capsys.readouterr().err == said
