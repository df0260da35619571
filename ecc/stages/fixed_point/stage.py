"""Stage ``fixed-point``: weights as b-bit whole numbers times a step, or as 16 bits in two matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ecc.core.code import Code, State, Workshop
from ecc.core.errors import InputError
from ecc.stages.code import PackedCode, packed, weight_names
from ecc.stages.fixed_point.fixed import fixed_form
from ecc.stages.fixed_point.quantising import CLIPS, largest_code, quantise, rows_of, steps_of
from ecc.stages.fixed_point.split import LARGEST_SPLIT, split_codes
from ecc.stages.nodes import Form, Node, Numbers, map_weights

__all__ = ["BitWidth", "FixedPoint"]

_FEWEST, _MOST = 2, 16
_CHOICES = (2, 3, 4, 5, 6, 7, 8)
_BLOCK = 1 << 20  # numbers whose rows are fitted together, so that they stay in the caches
_OVERHEAD = 24  # bytes that a form takes beside its codes and scales, about


@dataclass(frozen=True, slots=True)
class BitWidth:
    """The width of one tensor's codes.

    Attributes:
        bits: From 2 to 16, the sign included.
    """

    bits: int

    @property
    def label(self) -> str:
        """As in tables."""
        return f"int{self.bits}"


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Weights in fixed point; biases and what other stages have quantised already stay as they are.

    Attributes:
        bits: Of a code, from 2 to 16, the sign included.
        per_channel: Whether each row of a tensor (output channel) has a step of its own.
        power_of_two: Whether steps are powers of two, so that scaling is a shift.
        clip: ``max`` for steps that reach the largest magnitude, ``mse`` for those of least squared error of the
            weights. The latter clips: its errors all point inwards and add up, so that outputs are mostly farther off.
        split: Whether rare large weights take 16 bits in a sparse matrix of their own and set no step; 8 bits only.
        fit: Share of the weights that must fit 8 bits where split.
        layers: Names or shell patterns of the tensors that are encoded; all weights where empty.
    """

    bits: int = 8
    per_channel: bool = True
    power_of_two: bool = False
    clip: str = "max"
    split: bool = False
    fit: float = 0.98
    layers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not _FEWEST <= self.bits <= _MOST:
            raise InputError(
                f"FixedPoint(bits=...) must be a whole number from {_FEWEST} to {_MOST}, got {self.bits!r}"
            )
        if self.clip not in CLIPS:
            raise InputError(f"FixedPoint(clip=...) must be one of {', '.join(CLIPS)}, got {self.clip!r}")
        if self.split and self.bits != 8:
            raise InputError(f"FixedPoint(split=True) is of 8 bits and 8 more for outliers, not of bits={self.bits}")
        if not 0 < self.fit <= 1:
            raise InputError(f"FixedPoint(fit=...) must be in (0, 1], got {self.fit}")

    @property
    def name(self) -> str:
        """As on the command line."""
        return "fixed-point"

    def encode(
        self, state: State | Code, workshop: Workshop | None = None, *, chosen: Mapping[str, BitWidth] | None = None
    ) -> PackedCode:
        """The weights in fixed point.

        Args:
            chosen: Settings by name of a tensor, in the place of the stage's own options.

        Raises:
            InputError: If a weight is not finite, or all weights are quantised already.
        """
        code = packed(state)
        own, given = BitWidth(self.bits), chosen or {}
        changed = {
            name: node
            for name in weight_names(code, self.layers)
            if (node := self.encode_node(name, code.nodes[name], given.get(name, own))) is not code.nodes[name]
        }
        if not changed:
            raise InputError("the weights are quantised already; fixed-point needs weights that are floats")
        return replace(code, nodes={**code.nodes, **changed})

    def choices(self, name: str, node: Node) -> Sequence[BitWidth]:
        """The widths that a tensor may have."""
        return (BitWidth(8),) if self.split else tuple(map(BitWidth, _CHOICES))

    def encode_node(self, name: str, node: Node, setting: BitWidth) -> Node:
        """One tensor at a width.

        Raises:
            InputError: If a weight is not finite.
        """
        return self._encoded(name, node, setting.bits)

    def _encoded(self, name: str, node: Node, bits: int) -> Node:
        changed = False

        def change(leaf: Numbers) -> Node:
            nonlocal changed
            form = self._form(name, leaf, bits)
            changed |= form is not leaf
            return form

        made = map_weights(node, change)
        return made if changed else node

    def _form(self, name: str, leaf: Numbers, bits: int) -> Node:
        """The form of a leaf, or itself where that takes no more bytes."""
        values = leaf.values
        if values.numel() * (values.element_size() - bits / 8) <= _OVERHEAD:
            return leaf
        if not bool(values.isfinite().all()):
            raise InputError(f"{name!r} has weights that are not finite; mend them before they are quantised")
        rows = rows_of(values, per_channel=self.per_channel)
        if self.split:
            return self._split(values, rows)
        most = largest_code(bits)
        blocks = torch.split(rows, max(1, _BLOCK // rows.shape[1]))
        steps = torch.cat([self._steps(block, most) for block in blocks])
        return fixed_form(values, quantise(rows, steps, most), steps, most)

    def _steps(self, rows: torch.Tensor, most: int) -> torch.Tensor:
        return steps_of(rows, most, clip=self.clip, power_of_two=self.power_of_two)

    def _split(self, values: torch.Tensor, rows: torch.Tensor) -> Form:
        steps = steps_of(rows, 127, clip="max", power_of_two=self.power_of_two, fit=self.fit)
        numbers = quantise(rows, steps, LARGEST_SPLIT).to(torch.int32).reshape(values.shape)
        parts: dict[str, Node] = {"codes": split_codes(numbers), "scales": Numbers(steps)}
        return Form("fixed", tuple(values.shape), values.dtype, {"offset": 0}, parts)
