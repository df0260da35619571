"""What is not about size survives slimming, and the dense network does not notice."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from network_cases import CASES, conv
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.network.slimming import outline, slim
from ecc.network.tracing import trace

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Kept(nn.Module):
    """A convolution with most of what a module can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(8, 6)
        self.register_buffer("scale", torch.linspace(1, 2, 6).view(6, 1, 1))
        self.register_buffer("shift", torch.linspace(0, 1, 6).view(6, 1, 1), persistent=False)
        self.cache: Tensor | None = None
        self.log: list[tuple[int, ...]] = []

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x) * self.scale + self.shift
        self.cache = out.detach()
        self.log.append(tuple(out.shape))
        return out


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), Kept(), nn.Flatten(), nn.Linear(384, 5))


KEPT = {"0": np.array([0, 3, 4]), "3.conv": np.array([1, 5])}


def both(model: nn.Module, inputs: Any = IMAGE) -> list[Any]:
    """The slim network and the outline of its widths."""
    graph = trace(model, inputs)
    return [slim(model, graph, KEPT), outline(model, graph, {"0": 3, "3.conv": 2})]


def everything(model: nn.Module) -> dict[str, Any]:
    """All that a network holds, down to memory layout and gradients."""
    held: dict[str, Any] = {}
    for path, part in model.named_modules():
        for name, value in vars(part).items():
            held[f"{path}:{name}"] = id(value) if callable(value) else str(value)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        grad = None if tensor.grad is None else tensor.grad.tolist()
        held[name] = (
            id(tensor),
            tensor.tolist(),
            tensor.stride(),
            tensor.requires_grad,
            tensor.dtype,
            grad,
            tensor._version,
        )
    return held


def test_the_dense_network_is_left_as_it_was() -> None:
    model = network().train()
    model[3].eval()
    model(IMAGE).sum().backward()
    before, state = everything(model), torch.random.get_rng_state()
    both(model)
    assert everything(model) == before
    assert torch.equal(torch.random.get_rng_state(), state)


def test_gradients_are_dropped() -> None:
    model = network()
    model(IMAGE).sum().backward()
    for made in both(model):
        assert all(parameter.grad is None and parameter.is_leaf for parameter in made.parameters())


def test_buffers_follow_whether_they_are_saved_or_not() -> None:
    model = network()
    made, shape = both(model)
    assert torch.equal(made[3].scale, model[3].scale[[1, 5]])
    assert torch.equal(made[3].shift, model[3].shift[[1, 5]])
    assert shape[3].shift.shape == (2, 1, 1)
    assert made.state_dict().keys() == model.state_dict().keys()
    assert "3.shift" not in made.state_dict()
    assert "3.shift" in dict(made.named_buffers())


def test_modes_and_requires_grad_are_kept_per_part() -> None:
    model = network().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    model[5].bias.requires_grad_(False)
    for made in both(model):
        assert [part.training for part in made.modules()] == [part.training for part in model.modules()]
        assert [p.requires_grad for p in made.parameters()] == [p.requires_grad for p in model.parameters()]
        assert [type(part) for part in made.modules()] == [type(part) for part in model.modules()]
        assert all(isinstance(parameter, nn.Parameter) for parameter in made.parameters())


def test_what_a_forward_has_left_behind_is_copied() -> None:
    model = network()
    model(IMAGE)
    made, _ = both(model)
    assert torch.equal(made[3].cache, model[3].cache)
    assert made[3].log == model[3].log
    assert made[3].log is not model[3].log


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_precision_is_kept(dtype: torch.dtype) -> None:
    for made in both(network().to(dtype), IMAGE.to(dtype)):
        assert {tensor.dtype for tensor in (*made.parameters(), made[3].scale)} == {dtype}
        assert made[1].num_batches_tracked.dtype == torch.int64


def test_networks_without_values_stay_without() -> None:
    model = network().to("meta")
    for made in both(model, IMAGE.to("meta")):
        assert all(tensor.is_meta for tensor in made.parameters())
        assert made[0].weight.shape == (3, 3, 3, 3)


@pytest.mark.parametrize(
    ("module", "layout", "inputs"),
    [
        (nn.Conv2d, torch.channels_last, torch.randn(2, 3, 6, 6)),
        (nn.Conv3d, torch.channels_last_3d, torch.randn(2, 3, 5, 5, 5)),
    ],
    ids=["two", "three"],
)
def test_channels_last_is_kept(module: Any, layout: torch.memory_format, inputs: Tensor) -> None:
    layers = (module(3, 8, 1), module(8, 8, 3, groups=8), module(8, 4, 3))
    model = nn.Sequential(*layers).to(memory_format=layout)
    graph = trace(model, inputs)
    for made in (slim(model, graph, {"0": 6}), outline(model, graph, {"0": 6}), slim(model, graph, {})):
        for part in made:
            assert part.weight.is_contiguous(memory_format=layout)
        assert not made[2].weight.is_contiguous()
    plain = nn.Sequential(module(3, 8, 1), module(8, 8, 3, groups=8), module(8, 4, 3))
    assert all(p.is_contiguous() for p in slim(plain, trace(plain, inputs), {"0": 6}).parameters())


def test_weights_that_are_stored_transposed_stay_so() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 2))
    model[0].weight = nn.Parameter(torch.randn(6, 8).t())
    made = slim(model, trace(model, torch.randn(2, 6)), {"0": 5})
    assert made[0].weight.stride() == (1, 5)


def test_tied_weights_and_modules_stay_tied() -> None:
    model, ids = CASES["tied-embedding"].build()
    graph = trace(model, ids)
    for made in (slim(model, graph, {"embed": 6}), outline(model, graph, {"embed": 6})):
        assert made.out.weight is made.embed.weight
    twice, inputs = CASES["used-twice"].build()
    graph = trace(twice, inputs)
    shared = [path for path, _ in twice.named_modules(remove_duplicate=False)]
    made = slim(twice, graph, {graph.prunable[0].name: graph.prunable[0].step})
    assert [path for path, _ in made.named_modules(remove_duplicate=False)] == shared


def test_hooks_run_on_the_slim_network_with_its_shapes() -> None:
    model = network()
    seen: list[tuple[str, Any]] = []
    model[3].register_forward_pre_hook(lambda _, args: seen.append(("before", tuple(args[0].shape))))
    model[3].register_forward_hook(lambda _, args, out: seen.append(("after", tuple(out.shape))))
    model[3].register_full_backward_hook(lambda _, grads, outs: seen.append(("backward", tuple(outs[0].shape))))
    model[3].register_state_dict_post_hook(lambda *_: seen.append(("state", ())))
    for made in both(model):
        seen.clear()
        made(IMAGE).sum().backward()
        made.state_dict()
        assert seen == [
            ("before", (2, 3, 8, 8)),
            ("after", (2, 2, 8, 8)),
            ("backward", (2, 2, 8, 8)),
            ("state", ()),
        ]


def test_modules_in_plain_lists_are_those_of_the_copy() -> None:
    model = network()
    model.order = [model[0], model[5]]  # type: ignore[assignment]
    model.named = {"first": model[0]}  # type: ignore[assignment]
    made, _ = both(model)
    assert made.order[0] is made[0] is made.named["first"]
    assert made.order[1] is made[5]


def test_an_outline_has_the_shapes_of_the_slim_network_and_memory_of_its_own() -> None:
    model = network()
    made, shape = both(model)
    assert {name: tensor.shape for name, tensor in made.state_dict().items()} == {
        name: tensor.shape for name, tensor in shape.state_dict().items()
    }
    assert str(made) == str(shape)
    dense = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    for tensor in (*shape.parameters(), *shape.buffers()):
        assert tensor.untyped_storage().data_ptr() not in dense
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        assert tensor.is_contiguous()
        assert tensor.isfinite().all()
    assert shape(IMAGE).isfinite().all()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for tensor in shape.parameters():
            tensor.fill_(7)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ({"0": 0}, r"width 0 of group '0' is not admissible; choose from 1, 2 … 8"),
        ({"9": 1}, r"widths name the unknown group '9'; the prunable groups are 0, 3.conv"),
    ],
    ids=str,
)
def test_outlines_of_widths_outside_the_grid_are_refused(widths: dict[str, int], message: str) -> None:
    model = network()
    graph = trace(model, IMAGE, check=False)
    with pytest.raises(InputError, match=f"^{message}$"):
        outline(model, graph, widths)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # on the first import of the compiler
def test_compiled_networks_are_refused() -> None:
    model = network()
    graph = trace(model, IMAGE, check=False)
    for call in (lambda m: trace(m, IMAGE), lambda m: slim(m, graph, {"0": 3}), lambda m: outline(m, graph, {"0": 3})):
        with pytest.raises(InputError, match=r"compiled by torch\.compile; give the module inside"):
            call(torch.compile(model))


def test_wrappers_are_refused() -> None:
    model = network()
    graph = trace(model, IMAGE, check=False)
    with pytest.raises(InputError, match="the network is wrapped in DataParallel; give the network inside"):
        trace(nn.DataParallel(model), IMAGE)
    with pytest.raises(InputError, match="the network is wrapped in DataParallel; give the network inside"):
        slim(nn.DataParallel(model), graph, {"0": 3})
