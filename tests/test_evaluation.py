import pytest
import torch
from solver_toy import Loader, accuracy, residual
from torch import nn

from ecc.core.errors import InputError
from ecc.solvers.evaluation import evaluate, recalibrate, switch_off_dropout


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
