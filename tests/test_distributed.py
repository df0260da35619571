import os
import signal
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from ranks_toy import together
from solver_toy import accuracy, digits_task, mlp, problem, residual
from torch import nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from ecc.core.errors import EccError, InputError, Interrupted
from ecc.core.problem import Task
from ecc.data.values import TensorBatches
from ecc.solvers.admm import Admm
from ecc.solvers.alternation import Alternation
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.distributed import Ranks
from ecc.solvers.sharding import shard
from ecc.solvers.training import TrainConfig, train

CONFIG = TrainConfig(epochs=3, lr=0.01, seed=5, checkpoint_every_s=1e9)


def tensors(n=70):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(n, 64, generator=generator)
    return inputs, (inputs[:, :10] * 2).argmax(1)


def task(batch_size, loader=None):
    inputs, targets = tensors()
    batches = loader or TensorBatches(inputs, targets, batch_size, shuffle=True)
    return Task(batches, TensorBatches(inputs, targets, 70), nn.functional.cross_entropy, accuracy)


def close(one, other):
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=1e-4, atol=1e-6)


def equal(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("kind", ["tensors", "DataLoader", "any"])
def test_processes_end_with_one_network_that_of_one_process_with_their_batches_together(tmp_path, kind, world):
    """70 examples in batches of 8: the last step has examples in one process only."""

    def loader(batch_size):
        if kind == "DataLoader":
            return DataLoader(TensorDataset(*tensors()), batch_size, shuffle=True)
        batches = TensorBatches(*tensors(), batch_size, shuffle=True)
        return batches if kind == "tensors" else Plain(batches)

    config = replace(CONFIG, clip_norm=1.0, ema=0.9)

    def work(rank):
        torch.manual_seed(rank)  # other weights in each: the first one's count
        model = mlp()[0]
        nn.init.normal_(model[0].bias, std=0.0 if rank == 0 else 1.0)
        told = []
        history = train(model, task(8, loader(8)), config, progress=lambda *arguments: told.append(arguments))
        figures = {name: history[name].tolist() for name in ("loss", "score")}
        return {"model": model.state_dict(), "told": len(told), **figures}

    found = together(work, tmp_path, world)
    single = mlp()[0]
    nn.init.zeros_(single[0].bias)
    history = train(single, task(8 * world, loader(8 * world)), config)
    assert equal(found[0]["model"], found[-1]["model"])
    close(found[0]["model"], single.state_dict())
    assert [each["told"] for each in found] == [3 * -(-70 // (8 * world)), *[0] * (world - 1)]
    assert found[0]["loss"] == found[-1]["loss"] == pytest.approx(history.loss.tolist(), rel=1e-4)
    assert found[0]["score"] == found[-1]["score"] == history.score.tolist()


class Plain:
    """Batches that know nothing of processes."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def test_processes_run_the_proximal_steps_alike(tmp_path, monkeypatch):
    training = TrainConfig(epochs=2, lr=2e-3, schedule="constant", dropout=False)

    duals = []

    class Watched(Alternation):
        def final(self):
            duals.append(torch.cat([self.y, self.z, self.s, self.phi]))
            return super().final()

    def work(rank):
        found = Admm(training).solve(problem(mlp(), digits_task(64), 0.5))
        history = found.history.drop(columns="seconds").to_csv()
        return {"model": found.model.state_dict(), "widths": dict(found.widths), "duals": duals, "history": history}

    monkeypatch.setattr("ecc.solvers.admm.Alternation", Watched)
    one, other = together(work, tmp_path)
    single = Admm(training).solve(problem(mlp(), digits_task(128), 0.5))
    assert one["widths"] == other["widths"] == dict(single.widths)
    assert equal(one["model"], other["model"])
    assert one["history"] == other["history"]
    assert len(one["duals"]) == len(duals) > 0
    for mine, others, alone in zip(one["duals"], other["duals"], duals, strict=True):
        assert torch.equal(mine, others)
        torch.testing.assert_close(mine, alone, rtol=1e-4, atol=1e-4)
        assert float(mine.abs().sum()) > 0


def test_statistics_of_batch_norms_are_those_of_all_examples(tmp_path):
    images = torch.randn(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    batches = TensorBatches(images, torch.arange(32) % 10, 8)
    whole = Task(batches, batches, nn.functional.cross_entropy, accuracy)

    def work(rank):
        model = residual()[0]
        train(model, whole, TrainConfig(epochs=2, lr=1e-9))
        return {"model": model.state_dict()}

    one, other = together(work, tmp_path)
    assert equal(one["model"], other["model"])
    single = residual()[0]
    mean = torch.zeros(8)
    with torch.no_grad():
        for step in [0, 2, 0, 2]:
            parts = images.split(8)[step : step + 2]
            mean = 0.9 * mean + 0.1 * torch.stack([single.stem(part).mean((0, 2, 3)) for part in parts]).mean(0)
    torch.testing.assert_close(one["model"]["stem_norm.running_mean"], mean, rtol=1e-4, atol=1e-5)


def images(n=70, dtype=torch.float32):
    drawn = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return drawn.to(dtype), torch.arange(n) % 10


def image_task(batch_size, *data):
    batches = TensorBatches(*images(*data), batch_size, shuffle=True)
    return Task(batches, batches, nn.functional.cross_entropy, accuracy)


@pytest.mark.parametrize("data", [(70, torch.float32), (75, torch.float64)], ids=str)
def test_synced_batch_norms_train_as_one_process_with_all_examples(tmp_path, data):
    """Of 70 examples in batches of 8 the last step has some in one process only, of 75 unequal parts in both."""
    config = TrainConfig(epochs=2, lr=0.1, sync_norms=True, clip_norm=1.0, optimizer="sgd")

    def work(rank):
        model = residual()[0].to(data[1])
        history = train(model, image_task(8, *data), config)
        return {"model": model.state_dict(), "loss": history.loss.tolist()}

    one, other = together(work, tmp_path)
    single = residual()[0].to(data[1])
    start = single.state_dict()["stem.weight"].clone()
    history = train(single, image_task(16, *data), config)
    assert equal(one["model"], other["model"])
    close(one["model"], single.state_dict())
    assert one["loss"] == other["loss"] == pytest.approx(history.loss.tolist(), rel=1e-4)
    assert float((start - single.state_dict()["stem.weight"]).abs().max()) > 1e-2


def test_a_network_that_fails_between_synced_norms_ends_all_processes(tmp_path):
    def work(rank):
        inputs, targets = images()
        batches = TensorBatches(inputs, targets + (20 if rank == 1 else 0), 8)
        try:
            train(residual()[0], replace(image_task(8), train=batches), TrainConfig(epochs=1, sync_norms=True))
        except EccError as error:
            if rank == 1:
                dist.destroy_process_group()
            return str(error)

    first, second = together(work, tmp_path)
    assert "another process of this job has ended" in first
    assert "do not take batch 1 of epoch 1 (IndexError" in second


@pytest.mark.parametrize("presser", [0, 1])
def test_interrupting_one_process_ends_all_and_they_resume_with_the_same_bits(tmp_path, presser):
    config = replace(CONFIG, ema=0.9)

    def work(rank):
        results = {}
        whole = mlp(dropout=0.3)[0]
        train(whole, task(8), config)
        resumed = mlp(dropout=0.3)[0]
        checkpoint = FileCheckpoint(tmp_path / f"state{rank}")  # each on a disk of its own
        pressing = Pressing(at=7) if rank == presser else TensorBatches(*tensors(), 8, shuffle=True)
        try:
            train(mlp(dropout=0.3)[0], task(8, pressing), config, checkpoint=checkpoint)
        except Interrupted as error:
            results |= {"said": str(error), "kept": checkpoint.path.exists()}
        train(resumed, task(8), config, checkpoint=checkpoint)
        results["same"] = equal(whole.state_dict(), resumed.state_dict())
        return results

    for rank, result in enumerate(together(work, tmp_path)):
        assert "its state is saved" in result["said"]
        assert result["same"]
        assert result["kept"] == (rank == 0)


class Pressing:
    """Asks the process to end while batch ``at`` (of this process, over all epochs) is made."""

    def __init__(self, at, error=None):
        self.batches, self.at, self.error, self.given = TensorBatches(*tensors(), 8, shuffle=True), at, error, 0

    def __len__(self):
        return len(self.batches)

    def shard(self, rank, world):
        self.batches = self.batches.shard(rank, world)
        return self

    def __iter__(self):
        for batch in self.batches:
            self.given += 1
            if self.given == self.at:
                if self.error is not None:
                    raise self.error
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


def test_a_loader_that_fails_in_one_process_ends_all(tmp_path):
    def work(rank):
        loader = Pressing(at=7, error=OSError("no disk")) if rank == 1 else None
        try:
            train(mlp()[0], task(8, loader), CONFIG, checkpoint=FileCheckpoint(tmp_path / "state"))
        except InputError as error:
            return str(error)

    first, second = together(work, tmp_path)
    assert "failed at batch 3 of epoch 2 in another process; the state is saved" in first
    assert "failed at batch 3 of epoch 2 (OSError: no disk)" in second


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("n", [1, 7, 8, 9, 17, 40])
def test_parts_are_disjoint_and_complete(n, world):
    whole = TensorBatches(torch.arange(n), torch.arange(n), 8, shuffle=True)
    loader = DataLoader(TensorDataset(torch.arange(n), torch.arange(n)), 8, shuffle=True)
    for batches in (whole, loader, Plain(whole)):
        torch.manual_seed(0)
        expected = [inputs.tolist() for inputs, _ in batches]
        for rank in range(world):
            part = shard(batches, Ranks(rank, world))
            torch.manual_seed(0)
            assert [inputs.tolist() for inputs, _ in part] == expected[rank::world]
            if not isinstance(batches, Plain):
                assert len(part) == len(expected[rank::world])


def test_a_loader_that_is_dealt_out_already_is_taken_as_it_is_and_shuffled_anew():
    data = TensorDataset(torch.arange(20), torch.arange(20))
    sampler = DistributedSampler(data, num_replicas=2, rank=1, shuffle=True)
    part = shard(DataLoader(data, 4, sampler=sampler), Ranks(1, 2))
    orders = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        orders.append([inputs.tolist() for inputs, _ in part])
    assert orders[0] == orders[2] != orders[1]


def test_a_process_alone_needs_no_group():
    ranks = Ranks()
    tensor = torch.ones(2)
    ranks.average([tensor], 1.0)
    ranks.share([tensor])
    assert (ranks.total([1, 2]), ranks.first_says(3), ranks.share_bytes(b"a")) == ([1, 2], [3], b"a")
    assert not dist.is_initialized()
