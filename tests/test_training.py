import copy
import math
import os
import random
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from solver_toy import Loader, accuracy, mlp, residual
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from ecc.core.errors import EccError, InputError, Interrupted, StorageError, UnavailableError
from ecc.core.problem import Task
from ecc.solvers.averaging import Average
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.optimisers import OPTIMIZERS, OptimizerFactory
from ecc.solvers.schedules import ScheduleFactory
from ecc.solvers.training import TrainConfig, evaluate, train


def small_task(n=70, batch_size=16, loss=nn.functional.cross_entropy):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(n, 64, generator=generator)
    targets = (inputs[:, :10] * 2).argmax(1)
    return Task(Loader(inputs, targets, batch_size, shuffle=True), Loader(inputs, targets), loss, accuracy)


def network(dropout=0.3):
    return mlp(dropout=dropout)[0]


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class StopAt:
    """A progress that raises at the given steps, each once."""

    def __init__(self, error, *steps):
        self.error, self.steps = error, set(steps)

    def __call__(self, stage, done, total, note=""):
        if done in self.steps:
            self.steps.remove(done)
            raise self.error


CONFIG = TrainConfig(epochs=3, lr=0.01, warmup_epochs=0.5, seed=5, checkpoint_every_s=1e9)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
@pytest.mark.parametrize("stops", [(1,), (5,), (3, 4, 10, 15)], ids=str)
def test_interrupted_and_resumed_training_ends_with_the_same_bits(tmp_path, optimizer, stops):
    config = replace(CONFIG, optimizer=optimizer)
    whole, teacher = network(), network()
    history = train(whole, small_task(), config, teacher=teacher)
    checkpoint, stop = FileCheckpoint(tmp_path / "state"), StopAt(KeyboardInterrupt, *stops)
    for _ in stops:
        with pytest.raises(Interrupted, match="state is saved"):
            train(network(), small_task(), config, teacher=network(), checkpoint=checkpoint, progress=stop)
    resumed = network()
    again = train(resumed, small_task(), config, teacher=network(), checkpoint=checkpoint, progress=stop)
    assert not stop.steps
    assert same(whole, resumed)
    assert history.drop(columns="seconds").equals(again.drop(columns="seconds"))


@pytest.mark.parametrize("crash", [2, 5, 9])
def test_a_crash_costs_the_steps_since_the_last_save_and_no_bits(tmp_path, crash):
    config = replace(CONFIG, checkpoint_every_s=0.0)
    whole = network()
    train(whole, small_task(), config)
    checkpoint, stop = FileCheckpoint(tmp_path / "state"), StopAt(OSError, crash)
    with pytest.raises(OSError):  # noqa: PT011 - the loader's own error comes through
        train(network(), small_task(), config, checkpoint=checkpoint, progress=stop)
    resumed = network()
    train(resumed, small_task(), config, checkpoint=checkpoint, progress=stop)
    assert same(whole, resumed)


def test_ctrl_c_waits_for_the_end_of_the_step(tmp_path):
    steps = []

    def press(stage, done, total, note=""):
        steps.append(done)
        if done == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="interrupted in epoch 1 of 3"):
        train(network(), small_task(), CONFIG, progress=press, checkpoint=FileCheckpoint(tmp_path / "state"))
    assert steps == [1, 2, 3, 4]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    whole, resumed = network(), network()
    train(whole, small_task(), CONFIG)
    train(resumed, small_task(), CONFIG, checkpoint=FileCheckpoint(tmp_path / "state"))
    assert same(whole, resumed)


def test_an_interrupt_without_checkpoint_says_that_nothing_is_kept():
    with pytest.raises(Interrupted, match="nothing is kept"):
        train(network(), small_task(), CONFIG, progress=StopAt(KeyboardInterrupt, 3))


def test_a_finished_run_is_not_repeated(tmp_path):
    checkpoint = FileCheckpoint(tmp_path / "state")
    first, second = network(), network()
    history = train(first, small_task(), CONFIG, checkpoint=checkpoint)
    stop = StopAt(AssertionError, *range(100))
    assert train(second, small_task(), CONFIG, checkpoint=checkpoint, progress=stop).equals(history)
    assert same(first, second)


@pytest.mark.parametrize("change", ["weights", "lr", "teacher", "data"])
def test_a_checkpoint_of_another_run_is_not_resumed(tmp_path, change):
    checkpoint = FileCheckpoint(tmp_path / "state")
    train(network(), small_task(), CONFIG, checkpoint=checkpoint)
    fresh, resumed = network(), network()
    if change == "weights":
        for model in (fresh, resumed):
            model[0].bias.data += 1
    config = replace(CONFIG, lr=0.02) if change == "lr" else CONFIG
    teacher = network() if change == "teacher" else None
    task = small_task(n=90) if change == "data" else small_task()
    train(fresh, task, config, teacher=teacher)
    train(resumed, task, config, teacher=teacher, checkpoint=checkpoint)
    assert same(fresh, resumed)


def test_the_same_seed_gives_the_same_weights_and_leaves_torch_s_generator_alone():
    models = [network() for _ in range(3)]
    torch.manual_seed(3)
    before = torch.get_rng_state()
    for model, seed in zip(models, (1, 1, 2), strict=True):
        train(model, small_task(), replace(CONFIG, seed=seed))
    assert torch.equal(before, torch.get_rng_state())
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_a_nan_loss_restores_the_weights_from_before_the_epoch():
    calls = []

    def loss(outputs, targets):
        calls.append(0)
        return nn.functional.cross_entropy(outputs, targets) * (float("nan") if len(calls) == 8 else 1.0)

    model, good = network(), network()
    with pytest.raises(EccError, match=r"loss of train stopped being a finite number in epoch 2 at learning rate 0.01"):
        train(model, small_task(loss=loss), replace(CONFIG, schedule="constant"))
    train(good, small_task(), replace(CONFIG, schedule="constant", epochs=1))
    assert same(model, good)


def test_a_nan_is_never_saved(tmp_path):
    def loss(outputs, targets):
        return outputs.sum() * float("inf")

    checkpoint = FileCheckpoint(tmp_path / "state")
    with pytest.raises(EccError, match="finite"):
        train(network(), small_task(loss=loss), replace(CONFIG, checkpoint_every_s=0), checkpoint=checkpoint)
    assert checkpoint.load() is None


def test_the_loss_is_the_weighted_sum_of_distillation_and_task():
    model, teacher, task = network(0.0), network(0.0), small_task()
    teacher[0].weight.data *= 2
    inputs, targets = task.validation.inputs, task.validation.targets
    with torch.no_grad():
        mse = nn.functional.mse_loss(model(inputs), teacher(inputs))
        expected = 0.25 * mse + 0.75 * nn.functional.cross_entropy(model(inputs), targets)
    history = train(model, task, TrainConfig(epochs=1, lr=1e-12, distill=0.25), teacher=teacher)
    assert history.loss[0] == pytest.approx(expected.item(), rel=1e-5)


def test_the_teacher_answers_in_eval_mode_and_is_left_as_it_was():
    model, _, _ = residual()
    teacher = copy.deepcopy(model).train()
    before = copy.deepcopy(teacher)
    task = small_task()
    images = Loader(task.train.inputs.reshape(-1, 1, 8, 8), task.train.targets, 16)
    train(model, Task(images, images, task.loss, accuracy), TrainConfig(epochs=1), teacher=teacher)
    assert same(teacher, before)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(module.training for module in teacher.modules())


def test_without_dropout_the_student_is_deterministic_and_gets_its_dropout_back():
    with_layers, without = network(0.5), network(0.0)
    for model in (with_layers, without):
        train(model, small_task(), replace(CONFIG, dropout=False))
    assert same(with_layers, without)
    assert with_layers[2].p == 0.5


def test_sgd_takes_the_steps_of_a_plain_loop():
    task = small_task()
    task = Task(Loader(task.train.inputs, task.train.targets, 16), task.validation, task.loss, accuracy)
    config = TrainConfig(epochs=2, lr=0.1, optimizer="sgd", schedule="constant", clip_norm=0.5, weight_decay=1e-3)
    model, plain = network(0.0), network(0.0)
    train(model, task, config)
    optimizer = torch.optim.SGD(plain.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    for _ in range(2):
        for inputs, targets in task.train:
            optimizer.zero_grad()
            task.loss(plain(inputs), targets).backward()
            nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            optimizer.step()
    assert same(model, plain)


def test_the_cosine_schedule_is_torch_s():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.3)
    oracle = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 20)
    config = TrainConfig(epochs=4, lr=0.3)
    for step in range(20):
        assert config.rate(step, 5) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        oracle.step()


def test_warm_up_rises_linearly_to_the_rate_and_cosine_follows():
    config = TrainConfig(epochs=4, lr=1.0, warmup_epochs=2)
    assert [config.rate(step, 5) for step in range(10)] == pytest.approx([0.1 * k for k in range(1, 11)])
    assert config.rate(15, 5) == pytest.approx(0.5)


def test_mixed_precision_trains_too():
    model = network(0.0)
    history = train(model, small_task(), TrainConfig(epochs=15, lr=0.02, mixed_precision=True))
    assert history.score.iloc[-1] > 0.9
    assert model[0].weight.dtype == torch.float32


def test_a_hook_can_end_training_and_adds_its_figures():
    class Hook:
        key = ""

        def after_step(self, step):
            assert step.total == 15
            return step.index == 6

        def figures(self):
            return {"extra": 2.0}

    history = train(network(), small_task(), CONFIG, hook=Hook())
    assert list(history.columns) == ["phase", "epoch", "loss", "score", "lr", "extra", "seconds"]
    assert history.epoch.tolist() == [1, 2]


def test_an_interrupt_at_the_step_that_ends_training_loses_no_epoch(tmp_path):
    class Hook:
        key = ""

        def after_step(self, step):
            return step.index == 6

        def figures(self):
            return {}

        def state(self):
            return {}

        def restore(self, state):
            pass

    whole, resumed = network(), network()
    history = train(whole, small_task(), CONFIG, hook=Hook())
    checkpoint, stop = FileCheckpoint(tmp_path / "state"), StopAt(KeyboardInterrupt, 7)
    with pytest.raises(Interrupted):
        train(network(), small_task(), CONFIG, hook=Hook(), checkpoint=checkpoint, progress=stop)
    again = train(resumed, small_task(), CONFIG, hook=Hook(), checkpoint=checkpoint)
    assert same(whole, resumed)
    assert history.drop(columns="seconds").equals(again.drop(columns="seconds"))


def test_several_inputs_are_spread_over_the_arguments():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(64, 10)

        def forward(self, a, b):
            return self.layer(a + b)

    task = small_task()
    pairs = [
        ((x / 2, x / 2), y) for x, y in zip(task.train.inputs.split(16), task.train.targets.split(16), strict=True)
    ]
    history = train(Two(), Task(pairs, pairs, task.loss, accuracy), TrainConfig(epochs=30, lr=0.03))
    assert history.score.iloc[-1] > 0.9


def test_zero_epochs_change_nothing():
    model, before = network(), network()
    assert train(model, small_task(), TrainConfig(epochs=0)).empty
    assert same(model, before)


def test_a_loader_without_batches_is_refused():
    task = small_task()
    with pytest.raises(InputError, match="training data yields no batch"):
        train(network(), Task([], task.validation, task.loss, accuracy), CONFIG)


def test_a_loader_that_runs_dry_is_refused():
    task = small_task()
    once = iter(list(task.train))
    with pytest.raises(InputError, match="give a loader that can be repeated"):
        train(network(), Task(once, task.validation, task.loss, accuracy), CONFIG)


def test_a_network_without_trainable_parameters_is_refused():
    with pytest.raises(InputError, match="no trainable parameter"):
        train(network().requires_grad_(False), small_task(), CONFIG)


@pytest.mark.parametrize(
    ("field", "value", "rule"),
    [
        ("epochs", -1, "must be 0 or more"),
        ("lr", 0.0, "must be positive"),
        ("lr", float("nan"), "must be positive"),
        ("optimizer", "lion", "must be adam, adamw, "),
        ("momentum", 1.0, r"must be in \[0, 1\)"),
        ("schedule", "ramp", "must be cosine, constant, "),
        ("warmup_epochs", -1, "must be 0 or more"),
        ("distill", 1.5, r"must be in \[0, 1\]"),
        ("clip_norm", 0.0, "must be positive and finite, or None"),
        ("clip_norm", math.inf, "must be positive and finite, or None"),  # the manifest could not say it
        ("step_at", (0.7, 0.5), "must be rising shares"),
        ("step_at", (0.5, 1.0), "must be rising shares"),
        ("step_factor", 0.0, r"must be in \(0, 1\]"),
        ("temperature", 0.0, "must be positive or None"),
        ("ema", 1.0, r"must be in \[0, 1\) or None"),
        ("weight_decay", -1.0, "must be 0 or more"),
        ("checkpoint_every_s", -1.0, "must be 0 or more"),
        ("checkpoint_every_s", math.inf, "must be 0 or more and finite"),
    ],
)
def test_a_config_without_sense_is_refused(field, value, rule):
    with pytest.raises(InputError, match=rf"TrainConfig\({field}=...\) {rule}.*, got"):
        TrainConfig(**{field: value})


def cosine_by_torch(optimizer):
    return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 15)


OWN_OPTIMIZER = OptimizerFactory(
    "adagrad in two groups",
    lambda parameters: torch.optim.Adagrad([{"params": parameters[:2], "lr": 0.1}, {"params": parameters[2:]}], 0.01),
)


@pytest.mark.parametrize(
    "changes",
    [
        *({"optimizer": name} for name in OPTIMIZERS),
        {"optimizer": OWN_OPTIMIZER},
        {"schedule": ScheduleFactory("cosine", cosine_by_torch, every="step")},
        {
            "schedule": ScheduleFactory(
                "plateau", lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=0)
            )
        },
        {"schedule": "step"},
        {"ema": 0.9},
        {"temperature": 2.0},
        {"mixed_precision": True, "clip_norm": 0.5},
    ],
    ids=lambda changes: "-".join(f"{name}={getattr(value, 'name', value)}" for name, value in changes.items()),
)
def test_whatever_is_set_resumed_training_ends_with_the_same_bits(tmp_path, changes):
    config = replace(CONFIG, warmup_epochs=0.0, **changes)
    whole = network()
    history = train(whole, small_task(), config, teacher=network())
    checkpoint, stop = FileCheckpoint(tmp_path / "state"), StopAt(KeyboardInterrupt, 3, 10)
    for _ in range(2):
        with pytest.raises(Interrupted):
            train(network(), small_task(), config, teacher=network(), checkpoint=checkpoint, progress=stop)
    resumed = network()
    again = train(resumed, small_task(), config, teacher=network(), checkpoint=checkpoint, progress=stop)
    assert same(whole, resumed)
    assert history.drop(columns="seconds").equals(again.drop(columns="seconds"))


class DrawingLoader:
    """Draws its order and its noise from the generators of Python and numpy, batch by batch; has no length."""

    def __iter__(self):
        inputs, targets = small_task().train.inputs, small_task().train.targets
        for _ in range(5):
            rows = torch.tensor(random.sample(range(len(targets)), 16))
            yield inputs[rows] + torch.from_numpy(np.random.normal(0, 0.1, (16, 64))).float(), targets[rows]


class Stream(IterableDataset):
    def __iter__(self):
        yield from zip(small_task().train.inputs, small_task().train.targets, strict=True)


@pytest.mark.parametrize(
    "loader",
    [
        lambda: DrawingLoader(),
        lambda: DataLoader(Stream(), batch_size=16),
        lambda: DataLoader(list(zip(small_task().train.inputs, small_task().train.targets, strict=True)), 16, True),
    ],
    ids=["python and numpy", "stream", "DataLoader"],
)
def test_any_loader_is_resumed_where_it_was(tmp_path, loader):
    task = replace(small_task(), train=loader())
    whole, resumed = network(), network()
    train(whole, task, CONFIG)
    checkpoint, stop = FileCheckpoint(tmp_path / "state"), StopAt(KeyboardInterrupt, 7)
    python, numeric = random.getstate(), np.random.get_state()[1].copy()
    with pytest.raises(Interrupted):
        train(network(), task, CONFIG, checkpoint=checkpoint, progress=stop)
    train(resumed, task, CONFIG, checkpoint=checkpoint, progress=stop)
    assert same(whole, resumed)
    assert random.getstate() == python
    assert np.array_equal(np.random.get_state()[1], numeric)


def test_sigterm_ends_training_as_ctrl_c_does(tmp_path):
    def end(stage, done, total, note=""):
        if done == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="its state is saved"):
        train(network(), small_task(), CONFIG, progress=end, checkpoint=FileCheckpoint(tmp_path / "state"))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert FileCheckpoint(tmp_path / "state").load()["batch"] == 4


class Failing:
    """A loader whose batch ``at`` (from 1, over all epochs) fails the first time."""

    def __init__(self, at, error):
        self.loader, self.at, self.error, self.given = small_task().train, at, error, 0

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            self.given += 1
            if self.given == self.at:
                raise self.error
            yield batch


@pytest.mark.parametrize("at", [1, 2, 8, 10])
def test_a_loader_that_fails_keeps_the_weights_of_the_step_before(tmp_path, at):
    checkpoint, model, whole = FileCheckpoint(tmp_path / "state"), network(), network()
    task = replace(small_task(), train=Failing(at, OSError("disk on fire\nin rack 3")))
    where = rf"training data of train failed at batch {(at - 1) % 5 + 1} of epoch {(at - 1) // 5 + 1}"
    with pytest.raises(InputError, match=rf"{where} \(OSError: disk on fire\); the weights .* are kept; .* is saved"):
        train(model, task, CONFIG, checkpoint=checkpoint)
    kept = checkpoint.load()["model"]
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    train(model := network(), task, CONFIG, checkpoint=checkpoint)  # the disk is mended
    train(whole, small_task(), CONFIG)
    assert same(model, whole)


def test_a_validation_loader_that_fails_keeps_the_epoch(tmp_path):
    checkpoint, whole, resumed = FileCheckpoint(tmp_path / "state"), network(), network()
    config = replace(CONFIG, ema=0.9)
    task = replace(small_task(), validation=Failing(7, OSError("no disk")))  # 5 batches an epoch
    with pytest.raises(
        InputError, match=r"validation data of train failed in epoch 2 \(OSError: no disk\); the state is"
    ):
        train(network(), task, config, checkpoint=checkpoint)
    assert (checkpoint.load()["epoch"], checkpoint.load()["batch"]) == (1, 5)
    train(resumed, task, config, checkpoint=checkpoint)
    train(whole, small_task(), config)
    assert same(whole, resumed)


def test_a_batch_that_the_loss_does_not_take_keeps_the_weights_of_the_step_before(tmp_path):
    batches = [*small_task().train]
    inputs, targets = batches[3]
    batches[3] = inputs, torch.full_like(targets, 99)  # no such class
    checkpoint, model = FileCheckpoint(tmp_path / "state"), network()
    with pytest.raises(
        InputError,
        match=r"the network and the loss of train do not take batch 4 of epoch 1 \(IndexError: Target 99 is out",
    ):
        train(model, replace(small_task(), train=batches), CONFIG, checkpoint=checkpoint)
    kept = checkpoint.load()
    assert kept["batch"] == 3
    assert all(torch.equal(tensor, kept["model"][name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", ["epochs", "lr", "distill", "momentum", "clip_norm"])
def test_a_text_for_a_number_is_refused(name):
    with pytest.raises(InputError, match=rf"^TrainConfig\({name}=\.\.\.\) must be a number, got 'a'$"):
        TrainConfig(**{name: "a"})


class Unopened:
    """A loader that cannot even begin."""

    def __len__(self):
        return 5

    def __iter__(self):
        raise OSError("no such disk")


def test_a_loader_that_cannot_begin_is_told_of():
    with pytest.raises(InputError, match=r"failed at batch 1 of epoch 1 \(OSError: no such disk\)"):
        train(network(), replace(small_task(), train=Unopened()), CONFIG)


def test_a_loader_that_yields_no_pairs_is_told_so():
    task = replace(small_task(), train=[torch.zeros(4, 64)[:, :, None]])
    with pytest.raises(InputError, match=r"failed at batch 1 of epoch 1 \(ValueError: too many values to unpack"):
        train(network(), task, CONFIG)


def test_an_error_of_our_own_comes_through_a_loader_as_it_is(tmp_path):
    task = replace(small_task(), train=Failing(7, StorageError("the disk is gone")))
    with pytest.raises(StorageError, match="the disk is gone"):
        train(network(), task, CONFIG, checkpoint=FileCheckpoint(tmp_path / "state"))
    assert FileCheckpoint(tmp_path / "state").load()["batch"] == 1


def failing_loss(at, error):
    calls = []

    def loss(outputs, targets):
        calls.append(0)
        if len(calls) == at:
            raise error
        return nn.functional.cross_entropy(outputs, targets)

    return loss


@pytest.mark.parametrize("ema", [None, 0.9])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("CUDA error: unspecified launch failure"), "was lost in epoch 2 of train .*start the program"),
        (torch.OutOfMemoryError("CUDA out of memory."), "ran out of memory in epoch 2 of train .*make batches smaller"),
    ],
    ids=["lost", "memory"],
)
def test_a_device_that_fails_leaves_the_last_good_weights_and_their_state(tmp_path, error, said, ema):
    config = replace(CONFIG, schedule="constant", ema=ema)
    checkpoint, model, good, whole = FileCheckpoint(tmp_path / "state"), network(), network(), network()
    with pytest.raises(UnavailableError, match=rf"device cpu {said}") as caught:
        train(model, small_task(loss=failing_loss(8, error)), config, checkpoint=checkpoint)
    assert "the weights from before epoch 2 are kept, their state is saved" in str(caught.value)
    train(good, small_task(), replace(config, epochs=1))
    assert same(model, good)
    assert checkpoint.load()["epoch"] == 1
    resumed = network()
    train(resumed, small_task(), config, checkpoint=checkpoint)
    train(whole, small_task(), config)
    assert same(resumed, whole)


def test_a_later_state_than_the_last_good_one_in_memory_stays_saved(tmp_path):
    checkpoint, config = FileCheckpoint(tmp_path / "state"), replace(CONFIG, checkpoint_every_s=0)
    loss = failing_loss(8, RuntimeError("CUDA error: unspecified launch failure"))
    with pytest.raises(UnavailableError, match="lost"):
        train(network(), small_task(loss=loss), config, checkpoint=checkpoint)
    assert (checkpoint.load()["epoch"], checkpoint.load()["batch"]) == (1, 2)


def test_other_errors_of_the_network_come_through():
    with pytest.raises(RuntimeError, match="a mistake"):
        train(network(), small_task(loss=failing_loss(3, RuntimeError("a mistake"))), CONFIG)


def test_with_an_average_the_model_ends_with_it_and_it_is_what_is_scored():
    task, config, plain, averaged = small_task(), replace(CONFIG, dropout=False), network(), network()
    follower = Average(plain, 0.8)

    class Follow:
        key = ""

        def after_step(self, step):
            follower.update()
            return False

        def figures(self):
            return {}

    train(plain, task, config, hook=Follow())
    follower.install()
    history = train(averaged, task, replace(config, ema=0.8))
    assert same(plain, averaged)
    assert history.score.iloc[-1] == evaluate(averaged, task.validation, accuracy)


def test_a_schedule_of_one_s_own_takes_the_steps_of_a_plain_loop():
    task = small_task()
    task = Task(Loader(task.train.inputs, task.train.targets, 16), task.validation, task.loss, accuracy)
    own = ScheduleFactory("steps", lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.3), every="step")
    config = TrainConfig(epochs=2, optimizer=OWN_OPTIMIZER, schedule=own)
    model, plain = network(0.0), network(0.0)
    train(model, task, config)
    optimizer = OWN_OPTIMIZER.make(list(plain.parameters()))
    scheduler = own.make(optimizer)
    for _ in range(2):
        for inputs, targets in task.train:
            optimizer.zero_grad()
            task.loss(plain(inputs), targets).backward()
            optimizer.step()
            scheduler.step()
    assert same(model, plain)


def test_named_schedules_scale_the_step_size_of_each_group():
    rates = []

    class Watch:
        key = ""

        def after_step(self, step):
            rates.append([group["lr"] for group in step.optimizer.param_groups])
            return False

        def figures(self):
            return {}

    config = TrainConfig(epochs=2, schedule="linear", optimizer=OWN_OPTIMIZER)
    train(network(), small_task(), config, hook=Watch())
    assert rates == [pytest.approx([0.1 * (1 - k / 10), 0.01 * (1 - k / 10)]) for k in range(10)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"optimizer": OptimizerFactory("mine", lambda p: None)}, "optimizer 'mine' made a NoneType"),
        ({"optimizer": OptimizerFactory("second", torch.optim.LBFGS)}, "'second' made a LBFGS; .* no closure"),
        ({"schedule": ScheduleFactory("mine", lambda o: o)}, "schedule 'mine' made a Adam; its factory must return"),
    ],
)
def test_a_factory_of_something_else_is_refused(changes, said):
    with pytest.raises(InputError, match=said):
        train(network(), small_task(), TrainConfig(**changes))


def test_a_state_that_cannot_be_kept_is_refused_with_the_reason(tmp_path):
    def make(parameters):
        optimizer = torch.optim.SGD(parameters, 0.1)
        optimizer.param_groups[0]["thing"] = object()
        return optimizer

    config = TrainConfig(epochs=1, optimizer=OptimizerFactory("odd", make))
    with pytest.raises(InputError, match=r"state of train cannot be kept .*object.*train without a checkpoint"):
        train(network(), small_task(), config, checkpoint=FileCheckpoint(tmp_path / "state"))


def test_a_factory_of_another_name_does_not_resume(tmp_path):
    checkpoint = FileCheckpoint(tmp_path / "state")
    for name in "ab":
        config = replace(CONFIG, optimizer=OptimizerFactory(name, lambda p: torch.optim.SGD(p, 0.1)))
        told = []
        train(network(), small_task(), config, checkpoint=checkpoint, progress=lambda *a, told=told: told.append(a))
        assert len(told) == 15


def test_progress_tells_figures_of_the_hook_and_the_loss():
    class Costs:
        key = ""

        def after_step(self, step):
            return False

        def figures(self):
            return {"latency": 0.61234, "z_latency": 3.0}

    notes = []
    progress = lambda stage, done, total, note="": notes.append(note)  # noqa: E731
    train(network(), small_task(n=16 * 30), replace(CONFIG, epochs=2), hook=Costs(), progress=progress)
    assert notes[0] == ""
    assert notes[24].startswith("loss ")
    assert re.fullmatch(r"loss [\d.]+, score [\d.]+, latency 0.612, z_latency 3", notes[-1])


LOSE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from solver_toy import mlp
from test_training import CONFIG, same, small_task
from ecc.core.errors import UnavailableError
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.training import train

calls = []
def loss(outputs, targets):
    calls.append(0)
    return torch.nn.functional.cross_entropy(outputs, targets + 100 * (len(calls) == 8))

model, checkpoint = mlp()[0].cuda(), FileCheckpoint(sys.argv[2])
try:
    train(model, small_task(loss=loss), CONFIG, checkpoint=checkpoint)
except UnavailableError as error:
    print(error)
assert all(tensor.device.type == "cpu" for tensor in model.state_dict().values())
kept = checkpoint.load()["model"]
assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
"""


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_lost_cuda_device_leaves_the_last_good_weights_on_the_cpu(tmp_path):
    command = [sys.executable, "-c", LOSE, str(Path(__file__).parent), str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "device cuda:0 was lost in epoch 2 of train" in done.stdout
    assert "the weights from before epoch 2 are kept, their state is saved" in done.stdout


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_training_is_resumed_with_the_same_bits(tmp_path):
    config = replace(CONFIG, device="cuda", mixed_precision=True, ema=0.9)
    whole, resumed = network(), network()
    train(whole, small_task(), config)
    checkpoint, stop = FileCheckpoint(tmp_path / "state"), StopAt(KeyboardInterrupt, 7)
    with pytest.raises(Interrupted):
        train(network(), small_task(), config, checkpoint=checkpoint, progress=stop)
    train(resumed, small_task(), config, checkpoint=checkpoint)
    assert same(whole, resumed)
