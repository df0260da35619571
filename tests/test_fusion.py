import pytest
import torch
from torch import nn

from ecc.core.calls import OperatorCall
from ecc.core.operators import Operator
from ecc.energy_models.fusion import hosts
from ecc.network.tracing import trace
from ecc.profiler.runtimes import RUNTIMES


def calls(*entries):
    """Pairs of kind and inputs."""
    return [OperatorCall("", Operator(kind, channels_in=8, channels_out=8), inputs=inputs) for kind, inputs in entries]


CHAIN = calls(("conv", (-1,)), ("batch-norm", (0,)), ("relu", (1,)))
RESIDUAL = calls(("conv", (-1,)), ("relu", (0,)), ("conv", (1,)), ("batch-norm", (2,)), ("add", (3, 1)), ("relu", (4,)))


@pytest.mark.parametrize("runtime", ["eager", "cudagraph", "of tomorrow"])
def test_some_runtimes_merge_nothing(runtime):
    assert hosts(RESIDUAL, runtime) == (0, 1, 2, 3, 4, 5)


def test_there_is_a_rule_for_every_runtime():
    assert {name for name in RUNTIMES if hosts(CHAIN, name) == (0, 1, 2)} == {"eager", "cudagraph"}


@pytest.mark.parametrize(
    ("runtime", "chain", "residual"),
    [
        ("onnxruntime", (0, 0, 0), (0, 0, 2, 2, 2, 2)),
        ("openvino", (0, 0, 0), (0, 0, 2, 2, 2, 2)),
        ("compile", (0, 1, 1), (0, 1, 2, 3, 3, 3)),
    ],
)
def test_norms_activations_and_residual_adds_are_merged(runtime, chain, residual):
    assert hosts(CHAIN, runtime) == chain
    assert hosts(RESIDUAL, runtime) == residual


def test_what_others_read_too_is_kept():
    both = calls(("conv", (-1,)), ("batch-norm", (0,)), ("relu", (0,)))
    assert hosts(both, "onnxruntime") == (0, 1, 2)


def test_an_order_that_a_runtime_does_not_know_is_not_merged():
    late = calls(("conv", (-1,)), ("relu", (0,)), ("batch-norm", (1,)))
    assert hosts(late, "onnxruntime") == (0, 0, 2)
    assert hosts(calls(("linear", (-1,)), ("gelu", (0,))), "onnxruntime") == (0, 1)
    assert hosts(calls(("linear", (-1,)), ("gelu", (0,))), "openvino") == (0, 0)


def test_an_add_goes_into_the_branch_that_is_made_last():
    two = calls(("conv", (-1,)), ("conv", (-1,)), ("add", (0, 1)))
    assert hosts(two, "onnxruntime") == (0, 1, 1)


def test_a_traced_block_is_merged_by_who_reads_whom():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x):
            return torch.relu(self.norm(self.conv(x)) + x)

    found = trace(Block(), torch.zeros(1, 4, 6, 6)).calls
    assert [each.operator.kind for each in found] == ["conv", "batch-norm", "add", "relu"]
    assert hosts(found, "onnxruntime") == (0, 0, 0, 0)
