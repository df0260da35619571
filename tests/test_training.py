import copy
import os
import signal
from dataclasses import replace

import pytest
import torch
from solver_toy import Loader, accuracy, mlp, residual
from torch import nn

from ecc.core.errors import EccError, InputError, Interrupted
from ecc.core.problem import Task
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.training import TrainConfig, train


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
        ("clip_norm", 0.0, "must be positive or None"),
        ("weight_decay", -1.0, "must be 0 or more"),
        ("checkpoint_every_s", -1.0, "must be 0 or more"),
    ],
)
def test_a_config_without_sense_is_refused(field, value, rule):
    with pytest.raises(InputError, match=rf"TrainConfig\({field}=...\) {rule}.*, got"):
        TrainConfig(**{field: value})
