"""Soundness: what a network that somebody describes cannot be, as far as the dense one shows without a trace.

A description of the right names and shapes may still be wrong. Here the modules of PyTorch's own are asked whether
their tensors and sizes agree, removed blocks whether they could be residual ones, and both networks run on inputs
without values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ecc.core.errors import InputError
from ecc.network.capture import run, whole_operators
from ecc.network.checking import without_values
from ecc.network.hooks import strip
from ecc.network.nesting import tensors_in
from ecc.network.shapes import WithoutValues

__all__ = ["refuse_misfits", "refuse_no_blocks", "refuse_other_outputs", "refuse_strange_sizes"]

_Shape = tuple[int, ...]
_GATES = {"LSTM": 4, "GRU": 3}


def refuse_strange_sizes(model: nn.Module, sizes: Sequence[tuple[str, str, int]]) -> None:
    """Refuse sizes of modules of PyTorch's own but those that no tensor tells.

    Raises:
        InputError: If there is one.
    """
    for path, attribute, _ in sizes:
        part = model.get_submodule(path)
        if not type(part).__module__.startswith("torch.nn."):
            continue
        heads = isinstance(part, nn.MultiheadAttention) and attribute == "num_heads"
        bare = isinstance(part, _NormBase) and not [*part.parameters(), *part.buffers()]
        if not (heads or (bare and attribute == "num_features")):
            raise InputError(
                f"the slim manifest gives {path} ({type(part).__name__}) the size {attribute!r}, which its tensors "
                "tell or which has nothing to do with widths; write the manifest again"
            )


def refuse_misfits(dense: nn.Module, small: nn.Module) -> None:
    """Refuse a network with modules of PyTorch's own whose tensors and sizes do not agree.

    Args:
        dense: The whole network; what does not agree there either is passed over.
    Raises:
        InputError: If there is one.
    """
    before = dict(dense.named_modules())
    for path, part in small.named_modules():
        why = _misfit(part)
        if why and not _misfit(before[path]):
            raise InputError(
                f"the network that the slim manifest describes cannot be: {why} in {path} ({type(part).__name__})"
            )


def refuse_no_blocks(dense: nn.Module, removed: Mapping[str, bool], inputs: Any) -> None:
    """Refuse to remove what is no residual block.

    Args:
        removed: Paths, each with whether it is called with one argument only.
        inputs: That the network takes, without values; None if they are not known.
    Raises:
        InputError: If a module is a layer of PyTorch's own or has no parameters, or, where the network runs, if it does
            not run once, with as many arguments as said, and give a tensor like its first one.
    """
    for path in removed:
        part = dense.get_submodule(path)
        layer = type(part).__module__.startswith("torch.nn.") and not any(True for _ in part.children())
        if layer or not any(True for _ in part.parameters()):
            raise InputError(f"the slim manifest removes {path} ({type(part).__name__}), which is no residual block")
    calls: dict[str, list[bool]] = {path: [] for path in removed}
    if not removed or inputs is None or isinstance(_outputs(dense, inputs, calls), Exception):
        return
    for path, alone in removed.items():
        if calls[path] != [alone]:
            raise InputError(
                f"the slim manifest removes {path} ({type(dense.get_submodule(path)).__name__}), which is no residual "
                "block that is called once" + (" with one argument" if alone else " with several arguments")
            )


def refuse_other_outputs(dense: nn.Module, small: nn.Module, inputs: Any) -> None:
    """Refuse a network that does not run, or gives outputs of other shapes, on inputs that the dense one takes.

    Raises:
        InputError: If so.
    """
    expected = _outputs(dense, inputs, {})
    if isinstance(expected, Exception):
        return  # such as a forward that depends on values
    found = _outputs(small, inputs, {})
    if isinstance(found, Exception):
        why = (str(found).strip().splitlines() or [type(found).__name__])[0]
        raise InputError(f"the network that the slim manifest describes does not run: {why}") from found
    if found != expected:
        raise InputError(
            f"the network that the slim manifest describes gives outputs of {found}, the dense one of {expected}"
        )


def _outputs(model: nn.Module, inputs: Any, calls: Mapping[str, list[bool]]) -> list[_Shape] | Exception:
    """Shapes of the outputs on inputs without values, or why there are none.

    Args:
        calls: Gets, by module path, of each call whether it had one argument; calls that are not like those of a
            residual block count as two.
    """
    copied = without_values(model)
    strip(copied)
    for path, noted in calls.items():
        copied.get_submodule(path).register_forward_hook(_note(noted), with_kwargs=True)
    try:
        with whole_operators(), WithoutValues():  # type: ignore[no-untyped-call]
            return [tuple(tensor.shape) for tensor in run(copied, inputs)]
    except Exception as error:  # whatever a user's forward may raise
        return error


def _note(noted: list[bool]) -> Callable[..., None]:
    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        given = next(tensors_in([args, kwargs]), None)
        alone = len(args) == 1 and not kwargs
        like = isinstance(output, Tensor) and given is not None and output.shape == given.shape
        noted.extend([alone] if like else [alone, alone])

    return hook


def _misfit(module: nn.Module) -> str:
    """Which tensor of a module is not as large as its sizes say, or which of these is impossible; empty if none."""
    expected = _expected(module)
    if expected is None:
        return ""
    held = {**module._parameters, **module._buffers}
    for name, shape in expected.items():
        tensor = held.get(name)
        if tensor is not None and tuple(tensor.shape) != shape:
            return f"{name} has shape {tuple(tensor.shape)} where the others make it {shape}"
    if isinstance(module, _ConvNd) and (module.in_channels % module.groups or module.out_channels % module.groups):
        return f"{module.in_channels} to {module.out_channels} channels are not whole numbers of {module.groups} groups"
    if isinstance(module, nn.GroupNorm) and (module.num_groups < 1 or module.num_channels % module.num_groups):
        return f"{module.num_channels} channels are not a whole number of {module.num_groups} groups"
    if isinstance(module, nn.Embedding) and not (module.padding_idx or 0) < module.num_embeddings:
        return f"the padding index {module.padding_idx} is none of {module.num_embeddings} rows"
    return ""


def _expected(module: nn.Module) -> dict[str, _Shape] | None:
    """Shapes of a module's tensors by what its sizes say; None for modules of other kinds."""
    match module:
        case _ConvNd():
            first, second = module.out_channels, module.in_channels
            first, second = (second, first) if module.transposed else (first, second)
            kernel = module.kernel_size
            return {"weight": (first, second // module.groups, *kernel), "bias": (module.out_channels,)}
        case nn.Linear():
            return {"weight": (module.out_features, module.in_features), "bias": (module.out_features,)}
        case _NormBase():
            return dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (module.num_features,))
        case nn.GroupNorm():
            return dict.fromkeys(("weight", "bias"), (module.num_channels,))
        case nn.LayerNorm() | nn.RMSNorm():
            return dict.fromkeys(("weight", "bias"), tuple(module.normalized_shape))
        case nn.Embedding() | nn.EmbeddingBag():
            return {"weight": (module.num_embeddings, module.embedding_dim)}
        case nn.RNNBase():
            return _recurrent(module)
        case nn.RNNCellBase():
            rows = module.weight_ih.shape[0]
            inner = {"weight_ih": (rows, module.input_size), "weight_hh": (rows, module.hidden_size)}
            return {**inner, "bias_ih": (rows,), "bias_hh": (rows,)}
    return None


def _recurrent(module: nn.RNNBase) -> dict[str, _Shape]:
    ways = ("", "_reverse") if module.bidirectional else ("",)
    rows, out = _GATES.get(module.mode, 1) * module.hidden_size, module.proj_size or module.hidden_size
    shapes: dict[str, _Shape] = {}
    for layer, way in product(range(module.num_layers), ways):
        given = out * len(ways) if layer else module.input_size
        shapes |= {f"weight_ih_l{layer}{way}": (rows, given), f"weight_hh_l{layer}{way}": (rows, out)}
        shapes |= {f"bias_{kind}_l{layer}{way}": (rows,) for kind in ("ih", "hh")}
        shapes[f"weight_hr_l{layer}{way}"] = (out, module.hidden_size)
    return shapes
