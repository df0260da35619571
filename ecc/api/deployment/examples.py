"""Examples: inputs of a network of which others are drawn, of the same kind and with other batch sizes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.network.graph import InputSpec
from ecc.network.nesting import tensors_in
from ecc.profiler.runtimes.calling import Call, eager_outputs, first_line

__all__ = ["Example", "Sample", "input_names_of"]

_TRACED, _MORE = 2, 3  # smallest batch that is traced as one of many, and how many more another one has


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Inputs, and what the network makes of them.

    Attributes:
        call: The inputs.
        outputs: Of the network itself.
    """

    call: Call
    outputs: list[Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """Inputs of a network, on the CPU.

    Attributes:
        call: As they were given.
        vocabulary: Whole numbers that are all zero in ``call`` may be anything below this; 1 where that is not known.
    """

    call: Call
    vocabulary: int = 1

    @classmethod
    def of(cls, network: nn.Module, inputs: Any) -> Example:
        """The example that inputs give; the smallest table of embeddings says which token ids there are.

        Raises:
            InputError: If they are neither a tensor, nor a tuple, list or dict that holds one.
        """
        sizes = [each.num_embeddings for each in network.modules() if isinstance(each, nn.Embedding | nn.EmbeddingBag)]
        return cls(Call.of(inputs, "cpu"), min(sizes, default=1))

    @property
    def batch(self) -> int | None:
        """Examples of the call; None where its first tensor has no axes."""
        first = self.call.tensors[0]
        return int(first.shape[0]) if first.ndim else None

    @property
    def batched(self) -> list[bool]:
        """Of each tensor, whether its first axis is the batch: it is as long as that of the first."""
        return [tensor.ndim > 0 and tensor.shape[0] == self.batch for tensor in self.call.tensors]

    def batches(self) -> tuple[int, ...]:
        """Batch sizes by which a program for any batch is tried; the first is the one that is traced."""
        traced = max(self.batch or 1, _TRACED)
        return (traced, 1, traced + _MORE)

    def draw(self, seed: int, batch: int | None = None, *, vary: bool = True) -> Call:
        """Random inputs of the same kind.

        Args:
            batch: How many examples; as many as the example has if None.
            vary: Whether whole numbers and truth values vary too, not floats alone.
        """
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for tensor, follows in zip(self.call.tensors, self.batched, strict=True):
            spec = InputSpec.of(tensor)
            if _is_whole(tensor) and not spec.low and not spec.high:
                spec = replace(spec, high=float(min(self.vocabulary - 1, torch.iinfo(tensor.dtype).max)))
            if batch is not None and follows:
                spec = replace(spec, shape=(batch, *spec.shape[1:]))
            if vary or not (_is_whole(tensor) or tensor.dtype == torch.bool):
                drawn.append(spec.draw(generator, tensor.device))
            else:
                places = torch.arange(spec.shape[0]) % len(tensor) if spec.shape else slice(None)
                drawn.append(tensor[places] if spec.shape else tensor.clone())
        return self.call.replaced(drawn)

    def samples(self, network: nn.Module, batches: Sequence[int | None], seed: int) -> list[Sample]:
        """Random inputs with these batch sizes, and what the network makes of them.

        Raises:
            InputError: If the network does not run on them.
        """
        made = []
        for number, batch in enumerate(batches):
            failure: Exception | None = None
            for vary in (True, False):  # lengths, positions and masks may not be just any whole numbers
                call = self.draw(seed + number, batch, vary=vary)
                try:
                    made.append(Sample(call, eager_outputs(network, call)))
                    break
                except Exception as error:  # whatever a user's forward may raise
                    failure = failure or error
            else:
                size = "the batch that is exported" if batch is None else f"a batch of {batch}"
                said = "" if failure is None else f" ({first_line(failure)})"
                raise InputError(f"the network does not run on {size}{said}; give other inputs") from failure
        return made


def _is_whole(tensor: Tensor) -> bool:
    return not (tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool)


def input_names_of(network: nn.Module, call: Call) -> list[str]:
    """A name for each tensor of a call: of its argument, numbered where that holds several."""
    plain = [f"input_{number}" for number in range(len(call.tensors))]
    try:
        parameters = inspect.signature(network.forward).parameters
        bound = inspect.signature(network.forward).bind(*call.args, **call.kwargs).arguments
    except (TypeError, ValueError):
        return plain
    names: dict[int, str] = {}
    for name, value in bound.items():
        if parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            names |= {key: text for each, held in value.items() for key, text in _numbered(each, held).items()}
        else:
            names |= _numbered(name, value)
    found = [names.get(id(tensor), "") for tensor in call.tensors]
    return found if "" not in found and len(set(found)) == len(found) else plain


def _numbered(name: str, value: Any) -> dict[int, str]:
    """The tensors of an argument, by their identity, and their names."""
    held = list(tensors_in([value]))
    return {id(each): name if len(held) == 1 else f"{name}_{number}" for number, each in enumerate(held)}
