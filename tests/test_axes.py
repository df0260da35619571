"""One operator between two convolutions: its channels go exactly, or are kept with a reason that names it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from network_cases import Net, conv
from torch import Tensor, nn

from ecc.network.axes import RULES
from ecc.network.checking import perturbed
from ecc.network.equality import zero_then_remove
from ecc.network.opaque import OPAQUE
from ecc.network.tracing import trace

Operator = Callable[[Tensor], Tensor]

# Each takes (2, 8, 6, 6); the channels may go.
FREE: dict[str, Operator] = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "exp": torch.exp,
    "clamp": lambda y: y.clamp(0.1, 2.0),
    "hardtanh": F.hardtanh,
    "leaky_relu": lambda y: F.leaky_relu(y, 0.1),
    "pow": lambda y: (y * y + 1) ** -0.5,
    "rsub": lambda y: 1 - y,
    "add scalar": lambda y: y + 3,
    "divide": lambda y: y / (y.abs() + 1),
    "where": lambda y: torch.where(y > 0, y, -2 * y + 1),
    "masked_fill": lambda y: y.masked_fill(y < 0, 5.0),
    "maximum": lambda y: torch.maximum(y, -y),
    "addcmul": lambda y: torch.addcmul(y, y, y),
    "dropout": lambda y: F.dropout(y, 0.5, training=False),
    "spatial mean": lambda y: y - y.mean((2, 3), keepdim=True),
    "spatial std": lambda y: y / (y.std((2, 3), keepdim=True) + 1),
    "spatial max": lambda y: y * y.amax(dim=-1, keepdim=True),
    "max with index": lambda y: y * y.max(dim=3, keepdim=True).values,
    "spatial softmax": lambda y: y.flatten(2).softmax(-1).view_as(y),
    "cumsum in space": lambda y: y.cumsum(2),
    "max_pool": lambda y: F.max_pool2d(y, 2),
    "avg_pool": lambda y: F.avg_pool2d(y, 3, 1, 1),
    "adaptive pool": lambda y: F.adaptive_max_pool2d(y, 2),
    "lp_pool": lambda y: F.lp_pool2d(y.abs() + 1, 2, 2),
    "nearest": lambda y: F.interpolate(y, scale_factor=2),
    "bicubic": lambda y: F.interpolate(y, size=9, mode="bicubic"),
    "reflect": lambda y: F.pad(y, (1, 1, 1, 1), mode="reflect"),
    "pad in space": lambda y: F.pad(y, (1, 2, 0, 1), value=1.0),
    "roll in space": lambda y: y.roll((1, 2), (2, 3)),
    "flip in space": lambda y: y.flip(3),
    "permute": lambda y: y.permute(0, 3, 1, 2).permute(0, 2, 3, 1),
    "transpose": lambda y: y.transpose(1, 3).mul(2).transpose(1, 3),
    "movedim": lambda y: y.movedim(1, -1).movedim(-1, 1),
    "flatten": lambda y: y.flatten(2).unflatten(2, (6, 6)),
    "reshape": lambda y: y.reshape(2, -1, 36).reshape(2, -1, 6, 6),
    "squeeze": lambda y: y.unsqueeze(1).squeeze(1),
    "expand": lambda y: y.unsqueeze(1).expand(-1, 3, -1, -1, -1).sum(1),
    "repeat in space": lambda y: y.repeat(1, 1, 2, 1),
    "slice space": lambda y: y[:, :, 1:5, ::2],
    "slice all": lambda y: y[:, :],
    "cat with itself in space": lambda y: torch.cat([y, y.relu()], 3),
    "stack": lambda y: torch.stack([y, y.relu(), y.sigmoid()]).amax(0),
    "unbind in space": lambda y: torch.stack([part * i for i, part in enumerate(y.unbind(3))], 3),
    "zeros": lambda y: y + torch.zeros(y.shape, dtype=y.dtype),
    "ones_like": lambda y: y + torch.ones_like(y),
    "new_full": lambda y: y * y.new_full((1, y.shape[1], 1, 1), 0.7),
    "index_select in space": lambda y: y.index_select(2, torch.tensor([0, 3, 3])),
    "index in space": lambda y: y[:, :, torch.tensor([0, 2]), torch.tensor([1, 1])].unsqueeze(-1),
    "clone": lambda y: y.clone().contiguous(),
    "to": lambda y: y.float().double(),
    "instance_norm": F.instance_norm,
    "squares summed": lambda y: y / (1 + torch.linalg.vector_norm(y, dim=1, keepdim=True)),
    "outer": lambda y: torch.einsum("bchw,bc->bchw", y, y.mean((2, 3))),
    "spatial matmul": lambda y: y @ y.transpose(2, 3),
    "chunk": lambda y: torch.cat(y.chunk(2, 1)[::-1], 1),
    "sum of halves": lambda y: torch.cat([sum(y.chunk(2, 1))] * 2, 1),  # type: ignore[list-item]
    "pixel shuffle": lambda y: F.pixel_unshuffle(F.pixel_shuffle(y, 2), 2),
    "grid_sample": lambda y: F.grid_sample(y, torch.zeros(2, 3, 3, 2, dtype=y.dtype), align_corners=False),
    "unfold and back": lambda y: F.unfold(y, 3, padding=1).view(2, -1, 9, 36).mean(2).view(2, -1, 6, 6),
    "bool": lambda y: y * (y > 0),
    "normalize": lambda y: F.normalize(y, dim=1),
    "cosine_similarity": lambda y: y * F.cosine_similarity(y, y.roll(1, 2), dim=1).unsqueeze(1),
    "cdist": lambda y: torch.cdist(y.flatten(2).mT, y.flatten(2).mT.relu(), 1.0).softmax(-1)[:, None, :6, :6] * y,
    "dist": lambda y: y * torch.dist(y, 2 * y),
    "largest of all": lambda y: y / (1 + torch.linalg.vector_norm(y, float("inf"), dim=1, keepdim=True)),
    "fold": lambda y: F.fold(F.unfold(y, 3, padding=1), (6, 6), 3, padding=1),
    "windows": lambda y: y.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2)),
    "gather in space": lambda y: y.gather(2, torch.ones(2, y.shape[1], 3, 6, dtype=torch.long)),
    "take_along_dim": lambda y: y.take_along_dim(y.argsort(2), 2),
    "scatter in space": lambda y: torch.zeros_like(y).scatter(2, torch.ones(y.shape, dtype=torch.long), y),
    "scatter_add": lambda y: torch.ones_like(y).scatter_add(3, torch.zeros(y.shape, dtype=torch.long), y),
    "index_add": lambda y: y.index_add(2, torch.tensor([0, 1]), y[:, :, :2]),
    "index_copy": lambda y: y.index_copy(2, torch.tensor([0]), y[:, :, 1:2]),
    "index_fill": lambda y: y.index_fill(2, torch.tensor([1]), 3.0),
    "index_put": lambda y: y.index_put((torch.tensor([0]),), torch.tensor(2.0, dtype=y.dtype)),
    "index_put of channels": lambda y: y.movedim(1, 3).index_put((torch.tensor([0]),), y[0, :, 0, 0]).movedim(3, 1),
    "set item": lambda y: (z := y.clone()).__setitem__((slice(None), slice(None), 0), 1.0) or z,
    "select_scatter": lambda y: torch.select_scatter(y, y[:, :, 0] + 1, 2, 1),
    "slice_scatter": lambda y: torch.slice_scatter(y, y[:, :, :2] + 1, 2, 0, 2),
    "indices apart": lambda y: y[torch.tensor([0, 1]), :, torch.tensor([0, 1])].unsqueeze(-1),
    "tril in space": lambda y: y.tril() * torch.tril(torch.ones(6, 6, dtype=y.dtype)),
    "diagonal in space": lambda y: y * y.diagonal(dim1=2, dim2=3)[..., None],
    "rot90 in space": lambda y: torch.rot90(y, 1, (2, 3)),
    "std_mean": lambda y: y - torch.std_mean(y, (2, 3), keepdim=True)[1],
    "var_mean": lambda y: y / (1 + torch.var_mean(y, (2, 3), keepdim=True)[0]),
    "quantile": lambda y: y * y.quantile(0.5, dim=3, keepdim=True),
    "median": lambda y: y * y.median(dim=3, keepdim=True).values,
    "kthvalue": lambda y: y * y.kthvalue(2, 3, keepdim=True).values,
    "cummax index": lambda y: y * y.cummax(3).indices,
    "logcumsumexp": lambda y: y.logcumsumexp(2),
    "aminmax": lambda y: y - torch.aminmax(y, dim=3, keepdim=True).min,
    "diff in space": lambda y: y.diff(dim=3),
    "complex": lambda y: torch.view_as_real(torch.complex(y, y + 1)).sum(-1),
    "view_as_complex": lambda y: torch.view_as_real(torch.view_as_complex(y.unflatten(3, (3, 2))) * 2).flatten(3),
    "polar": lambda y: torch.polar(y.abs(), y).real,
    "fake_quantize": lambda y: torch.fake_quantize_per_tensor_affine(y.float(), 0.1, 3, -128, 127).double(),
    "bucketize": lambda y: y * torch.bucketize(y, torch.tensor([0.0, 1.0], dtype=y.dtype)),
    "linalg_cross": lambda y: torch.linalg.cross(y.unflatten(3, (2, 3)), y.unflatten(3, (2, 3)) + 1).flatten(3),
    "max_unpool": lambda y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2),
    "baddbmm": lambda y: torch.baddbmm(y.flatten(2), y.flatten(2), torch.ones(2, 36, 36, dtype=y.dtype)).view_as(y),
    "tensordot": lambda y: torch.tensordot(y, torch.ones(6, 6, dtype=y.dtype), dims=([3], [0])),
    "inner": lambda y: torch.inner(y, torch.ones(6, 6, dtype=y.dtype)),
    "einsum ellipsis": lambda y: torch.einsum("b...d,de->b...e", y, torch.ones(6, 6, dtype=y.dtype)),
    "einsum ellipsis without arrow": lambda y: (
        torch.einsum("...d,dd", y, torch.ones(6, 6, dtype=y.dtype)).unsqueeze(3) + y
    ),
    "einsum diagonal": lambda y: torch.einsum("bcii->bci", y)[..., None] * y,
    "hstack": lambda y: torch.hstack([y, y.relu()]),
    "dstack": lambda y: torch.dstack([y, y.relu()]),
    "logaddexp": lambda y: torch.logaddexp(y, 2 * y),
    "xlogy": lambda y: torch.xlogy(y, y.abs() + 1),
    "mvlgamma": lambda y: (y.sigmoid() + 2).mvlgamma(2),
    "empty": lambda y: torch.empty_like(y).copy_(y) + y.new_empty(y.shape).fill_(1.0),
    "repeated filter": lambda y: F.conv2d(y, torch.ones(y.shape[1], 1, 1, 1, dtype=y.dtype), groups=y.shape[1]),
    "native batch norm": lambda y: torch.ops.aten._native_batch_norm_legit_no_training(
        y, None, None, y.new_zeros(y.shape[1]), y.new_ones(y.shape[1]), 0.1, 1e-5
    )[0],
    "glu twice": lambda y: F.glu(torch.cat([y, y], 1), 1),
}

# The channels may not go, and the reason names what stands in the way.
FIXED: dict[str, tuple[Operator, str]] = {
    "softmax": (lambda y: y.softmax(1), "softmax runs over its channels"),
    "channel mean": (lambda y: y - y.mean(1, keepdim=True), "mean runs over its channels"),
    "channel max": (lambda y: y - y.amax(1, keepdim=True), "amax runs over its channels"),
    "layer_norm": (lambda y: F.layer_norm(y.movedim(1, 3), (8,)).movedim(3, 1), "layer_norm takes its statistics"),
    "cumsum": (lambda y: y.cumsum(1), "cumsum runs over its channels"),
    "roll": (lambda y: y.roll(1, 1), "roll works across the channels"),
    "flip": (lambda y: y.flip(1), "flip works across the channels"),
    "select": (lambda y: y * y[:, 3:4] * y[:, 3].unsqueeze(1), "select picks positions by number"),
    "every second": (lambda y: torch.cat([y[:, ::2], y[:, 1::2]], 1), "slice picks positions by number"),
    "index": (lambda y: y[:, torch.arange(8).flip(0)], "index picks positions by number"),
    "sort": (lambda y: y.sort(1).values, "sort runs over its channels"),
    "arange": (lambda y: y * torch.arange(8).view(1, -1, 1, 1), "mul ties it to an axis of fixed size"),
    "fft": (lambda y: torch.fft.fft(y).real, "the operator fft_fft is not known"),
    "kron": (lambda y: torch.kron(y, torch.ones(1, 1, 2, 2, dtype=y.dtype)), "the operator kron is not known"),
    "distance of channels": (
        lambda y: y + torch.cdist(y.exp().flatten(2).mT, y.flatten(2).mT).sum(),
        "cdist sums over",
    ),
    "distance plus a number": (
        lambda y: y * F.pairwise_distance(y.movedim(1, 3), y.movedim(1, 3) * 2).unsqueeze(1),
        "pairwise_distance adds a number to each channel",
    ),
    "gather": (lambda y: y.gather(1, torch.zeros(y.shape, dtype=torch.long)), "gather picks positions by number"),
    "tril": (lambda y: y.transpose(1, 2).tril().transpose(1, 2), "tril picks positions by number"),
    "logarithm": (lambda y: y.abs().log(), "log is not finite where channels are zero"),
    "divided by itself": (lambda y: y / y.abs(), "div is not finite where channels are zero"),
    "negative power": (lambda y: y**-2, "pow is not finite where channels are zero"),
    "convolved channels": (lambda y: F.avg_pool3d(y, (3, 1, 1), 1, (1, 0, 0)), "avg_pool3d slides along it"),
    "wrap pad": (lambda y: F.pad(y, (0, 0, 0, 0, 1, 1), mode="circular")[:, 1:9], "pad"),
    "not zero": (lambda y: y * (y.exp() * y.exp()).sum(1, keepdim=True), "sum runs over its channels"),
    "divided by the width": (lambda y: y / y.shape[1], "div computes with"),
    "scaled by the width": (lambda y: y * y.shape[1] ** 0.5, "mul computes with"),
    "width in a constant": (lambda y: y + torch.tensor(float(y.shape[1])), "makes another constant"),
    "branch on the width": (lambda y: y.relu() if y.shape[1] % 8 == 0 else y.tanh(), "runs other operators"),
    "hard-coded view": (lambda y: y.view(2, 8, 36).view(2, 8, 6, 6), "the forward insists on its size"),
    "hard-coded groups": (lambda y: F.group_norm(y, 4), "num_groups=4"),
    "hard-coded zeros": (lambda y: y + torch.zeros(1, 8, 1, 1, dtype=y.dtype), "the forward insists on its size"),
}


def between(operator: Operator) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    with torch.no_grad():
        width = operator(torch.rand(2, 8, 6, 6, dtype=torch.float64)).shape[1]
    model = Net(lambda s, x: s.b(operator(s.a(x))), a=conv(3, 8), b=nn.Conv2d(width, 4, 1))
    return model.double(), torch.randn(2, 3, 6, 6, dtype=torch.float64)


@pytest.mark.parametrize("name", FREE)
def test_channels_go_through(name: str) -> None:
    model, inputs = between(FREE[name])
    graph = trace(model, inputs)
    assert [group.name for group in graph.prunable] == ["a"], graph.group("a").reason
    assert not graph.notes
    group, trial, generator = graph.prunable[0], perturbed(model, 1), np.random.default_rng(0)
    for count in sorted({1, group.units // 2, group.units - 1}):
        kept = {"a": np.sort(generator.choice(group.units, count, replace=False))}
        assert zero_then_remove(trial, graph, kept, inputs) < 1e-10


@pytest.mark.parametrize("name", FIXED)
def test_channels_stay_for_a_reason(name: str) -> None:
    operator, reason = FIXED[name]
    model, inputs = between(operator)
    group = trace(model, inputs).group("a")
    assert not group.prunable
    assert reason in group.reason


def test_two_layers_meet_in_a_bilinear_one() -> None:
    torch.manual_seed(0)

    def run(s: Any, x: Tensor) -> Tensor:
        return s.head(s.both(s.a(x), torch.tanh(s.b(x))))

    parts = {"a": nn.Linear(5, 8), "b": nn.Linear(5, 6), "both": nn.Bilinear(8, 6, 7), "head": nn.Linear(7, 3)}
    model, inputs = Net(run, **parts).double(), torch.randn(4, 5, dtype=torch.float64)
    graph = trace(model, inputs)
    assert {group.name: group.width for group in graph.prunable} == {"a": 8, "b": 6, "both": 7}
    kept = {"a": np.array([1, 4]), "b": np.array([0, 2, 5]), "both": np.array([6])}
    assert zero_then_remove(perturbed(model, 1), graph, kept, inputs) < 1e-10


def test_names_of_rules_are_operators_of_torch() -> None:
    # Names that only some versions of torch have.
    unknown = {
        name
        for name in RULES.keys() - OPAQUE
        if not hasattr(torch.ops.aten, name) and not hasattr(torch.ops.aten, f"{name}_")
    }
    assert not unknown


def test_reasons_tell_the_cure() -> None:
    class Pinned(nn.Module):
        def __init__(self, *, by_hand: bool) -> None:
            super().__init__()
            self.first, self.last, self.by_hand = nn.Linear(4, 6), nn.Linear(6, 2), by_hand

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            y = y * (y.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() if self.by_hand else y.view(-1, 3, 2).flatten(1)
            return self.last(y)  # type: ignore[no-any-return]

    reasons = [
        trace(Pinned(by_hand=by_hand), torch.randn(2, 4), renormalise=True).groups[0].reason for by_hand in (0, 1)
    ]
    assert "count with the tensor's own shape or -1" in reasons[0]
    assert "renormalise=True covers PyTorch's own only" in reasons[1]
