from dataclasses import replace

import pytest
import torch
from solver_toy import Loader, accuracy, residual
from torch import nn
from torch.nn import functional as F

from ecc.core.errors import InputError
from ecc.core.problem import Task
from ecc.solvers.evaluation import demand_fitting, evaluate, recalibrate, switch_off_dropout


def loader(n=40, batch_size=8):
    generator = torch.Generator().manual_seed(2)
    return Loader(torch.randn(n, 1, 8, 8, generator=generator) * 3 + 1, torch.randint(0, 10, (n,)), batch_size)


def test_the_score_is_of_all_outputs_in_eval_mode_and_modes_are_put_back():
    model, _, _ = residual()
    model.inner_norm.eval()
    batches = loader()
    found = evaluate(model, batches, accuracy)
    assert model.training
    assert not model.inner_norm.training
    assert found == accuracy(model.eval()(batches.inputs), batches.targets)


def test_there_must_be_something_to_evaluate_on():
    with pytest.raises(InputError, match="no batches to evaluate on"):
        evaluate(residual()[0], [], accuracy)


class Failing:
    """A loader whose third batch cannot be read."""

    def __iter__(self):
        yield from list(loader())[:2]
        raise OSError("no disk")


def test_a_loader_that_fails_is_told_of():
    with pytest.raises(InputError, match=r"the data failed at batch 3 \(OSError: no disk\); mend the loader"):
        evaluate(residual()[0], Failing(), accuracy)


def test_nan_in_the_data_is_no_prediction():
    batches = loader()
    batches.inputs[9, 0, 3, 3] = torch.nan
    with pytest.raises(InputError, match="batch 2 of the data to score on holds NaN"):
        evaluate(residual()[0], batches, accuracy)


class Several(nn.Module):
    """A network of more than one output."""

    def __init__(self):
        super().__init__()
        self.inner = residual()[0]

    def forward(self, x):
        return self.inner(x), x


def fitting(**changes):
    return replace(Task(loader(), loader(), F.cross_entropy, accuracy), **changes)


def wide():
    return Loader(torch.zeros(8, 3, 8, 8), torch.zeros(8, dtype=torch.int64))


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (fitting(train=Failing()), None),  # not before its third batch
        (fitting(train=wide()), "does not run on a training batch"),
        (
            fitting(train=Loader(loader().inputs, loader().targets + 10)),
            r"the loss does not take .*\(40, 10\).*\(40,\)",
        ),
        (fitting(loss=F.mse_loss, score=lambda outputs, targets: 1 / 0), "the loss does not take"),
        (fitting(score=lambda outputs, targets: 1 / 0), "the score does not take .*ZeroDivisionError"),
        (fitting(score=lambda outputs, targets: "good"), "the score does not take .*ValueError"),
        (fitting(loss=lambda outputs, targets: outputs), r"the loss gives a tensor of shape \(8, 10\); it must"),
        (fitting(loss=lambda outputs, targets: 1.0), "the loss gives a float; it must"),
        (fitting(), None),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_task_that_does_not_fit_the_network_is_refused(task, words):
    model, before = residual()[0], torch.get_rng_state()
    if words is None:
        demand_fitting(model, task)
    else:
        with pytest.raises(InputError, match=words):
            demand_fitting(model, task)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training


def test_a_network_of_several_outputs_is_refused():
    with pytest.raises(InputError, match="the network gives a tuple, where loss and score take a tensor"):
        demand_fitting(Several(), fitting())


def test_recalibrated_statistics_are_the_averages_over_the_batches():
    model, _, _ = residual()
    batches, norm = loader(), model.stem_norm
    for inputs, _ in batches:
        model(inputs * 5)  # statistics that are wrong
    weights = [p.clone() for p in model.parameters()]
    recalibrate(model, batches)
    outputs = [model.stem(inputs).transpose(0, 1).flatten(1) for inputs, _ in batches]
    torch.testing.assert_close(norm.running_mean, torch.stack([o.mean(1) for o in outputs]).mean(0).detach())
    torch.testing.assert_close(norm.running_var, torch.stack([o.var(1) for o in outputs]).mean(0).detach())
    assert norm.momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_dropout_is_switched_off_in_layers_recurrent_layers_and_attention():
    model = nn.ModuleList([nn.Dropout(0.5), nn.LSTM(2, 2, num_layers=2, dropout=0.5), nn.MultiheadAttention(2, 1, 0.5)])
    with switch_off_dropout(model):
        assert (model[0].p, model[1].dropout, model[2].dropout) == (0, 0, 0)
    assert (model[0].p, model[1].dropout, model[2].dropout) == (0.5, 0.5, 0.5)
