import numpy as np
import pytest
import torch

from ecc.core.operators import KINDS
from ecc.energy_models.operator_work import TERMS, features, sizes_of, work
from ecc.profiler.operator_design import choose

DESIGN = choose(400, seed=3)


@pytest.mark.parametrize("kind", KINDS)
def test_work_of_whole_shapes_is_what_operators_count(kind):
    mine = [each for each in DESIGN if each.kind == kind]
    counted = [[each.macs, each.reads, each.weights, each.writes] for each in mine]
    assert mine
    np.testing.assert_allclose(work(kind, sizes_of(mine))[:, 1:5], counted, rtol=1e-12)
    assert work(kind, sizes_of(mine)).shape == (len(mine), len(TERMS))


def test_features_of_all_kinds_are_finite_and_as_many():
    found = [features(each.kind, sizes_of([each])) for each in DESIGN]
    assert len({each.shape for each in found}) == 1
    assert all(torch.isfinite(each).all() for each in found)


def test_no_gradient_passes_through_the_steps_of_the_hardware():
    sizes = sizes_of([each for each in DESIGN if each.kind == "conv"][:5])
    sizes["channels_out"].requires_grad_()
    (slope,) = torch.autograd.grad(features("conv", sizes)[:, 5].sum(), sizes["channels_out"])
    torch.testing.assert_close(slope, 1 / sizes["channels_out"].detach())
    (steps,) = torch.autograd.grad(features("conv", sizes)[:, 14:].sum(), sizes["channels_out"], allow_unused=True)
    assert steps is None or not steps.any()
