import math

import pytest
import torch

from ecc.core.errors import InputError
from ecc.solvers.distillation import distance


def by_hand(outputs, wanted, temperature):
    total = 0.0
    for ours, theirs in zip(outputs.tolist(), wanted.tolist(), strict=True):
        p = [math.exp(value / temperature) for value in theirs]
        q = [math.exp(value / temperature) for value in ours]
        total += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    return temperature**2 * total / len(outputs)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_divergence_is_hinton_s(temperature):
    outputs, wanted = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).double()
    assert distance(outputs, wanted, temperature).item() == pytest.approx(by_hand(outputs, wanted, temperature), 1e-5)


def test_at_high_temperature_it_is_the_squared_error_of_centred_logits():
    """Hinton et al. 2015, eq. 4: the gradient is (z - v)/N, that of the mean squared error up to a factor."""
    outputs, wanted = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(0))
    outputs, wanted = outputs - outputs.mean(1, keepdim=True), wanted - wanted.mean(1, keepdim=True)
    limit = (outputs - wanted).square().mean() / 2
    assert distance(outputs, wanted, 300.0).item() == pytest.approx(limit.item(), rel=0.02)


def test_pixels_count_like_examples():
    outputs, wanted = torch.randn(2, 6, 5, 2, 3, generator=torch.Generator().manual_seed(0))
    flat = [logits.permute(0, 2, 3, 1).reshape(-1, 5) for logits in (outputs, wanted)]
    torch.testing.assert_close(distance(outputs, wanted, 2.0), distance(*flat, 2.0))


def test_without_temperature_it_is_the_mean_squared_error():
    outputs, wanted = torch.randn(2, 5, 3)
    assert distance(outputs, wanted, None) == (outputs - wanted).square().mean()


@pytest.mark.parametrize("shape", [(4,), (4, 1)], ids=str)
def test_a_temperature_needs_classes(shape):
    with pytest.raises(InputError, match="a temperature needs logits of at least 2 classes"):
        distance(torch.zeros(shape), torch.zeros(shape), 2.0)


def test_a_teacher_of_other_outputs_is_refused():
    with pytest.raises(InputError, match=r"the teacher's outputs have shape \(4, 3\) and the network's \(4, 2\)"):
        distance(torch.zeros(4, 2), torch.zeros(4, 3), None)
