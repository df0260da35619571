"""Unit energies and masks: how much weight the units of coupled groups hold, and how units are zeroed.

A group's units live in slices of many tensors. Where they lie is compiled once into index tensors, so that a step of a
solver costs one reduction and one fill per tensor that reads a group.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.widths import Kept, Slot, WidthGroup

__all__ = ["Slices", "Sparsity"]


@dataclass(frozen=True, slots=True, eq=False)
class Slices:
    """An axis of a tensor that the units of any groups share.

    Attributes:
        tensor: A parameter or buffer of the model.
        axis: Cut in slices.
        owner: Number of the unit that owns each position, over the units of all groups one after another; the number
            of all units where nobody does, shape (positions,).
    """

    tensor: Tensor
    axis: int
    owner: Tensor

    def spread(self, keep: Tensor) -> Tensor:
        """``keep``, one value per unit and one more for what nobody owns, along the axis of the tensor."""
        shape = [-1 if axis == self.axis else 1 for axis in range(self.tensor.ndim)]
        return keep[self.owner].view(shape)

    def others(self) -> list[int]:
        """The other axes."""
        return [axis for axis in range(self.tensor.ndim) if axis != self.axis]


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """The slices of one tensor that a group's units own: ``indices`` (units, k) along ``axis``."""

    group: int
    tensor: Tensor
    axis: int
    indices: Tensor


class Sparsity:
    """The unit slices of a model's groups.

    A unit's *readers* are its slices of weights that consume it (``read`` slots of two or more axes): when they are
    zero the rest of the network does not see the unit, which is what ECC counts as a dropped channel. A group that no
    weight reads is judged by the weights that write it.

    Its *gates* are slices that need only be zero for the unit to be gone: its readers, or what writes it where no
    weight reads it or one that does must not be zero. The sum of w·∂L/∂w over them is the first-order change of a loss
    L without the unit; over readers and writers together it would be counted twice.

    Args:
        model: Holds the tensors; parameters that occur under several names are counted once.
        groups: Their slots name tensors of ``model``.

    Attributes:
        units: Units per group when dense.
        weights: The tensors that energies are taken from, each once.
        readers: The slices that energies are taken from.
        silenced: The slices that ``silence`` zeroes.
        gated: The slices that are gates.
        gates: (number of the group, tensor) of every gate, each once.

    Raises:
        InputError: If a slot does not fit the model.
    """

    def __init__(self, model: nn.Module, groups: Sequence[WidthGroup]) -> None:
        tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
        tensors |= dict(model.named_buffers(remove_duplicate=False))
        self.units: tuple[int, ...] = tuple(group.units for group in groups)
        self._names = tuple(group.name for group in groups)
        self._all: list[_Place] = []
        self._readers: list[_Place] = []
        self._silent: list[_Place] = []
        self._gates: list[_Place] = []
        for number, group in enumerate(groups):
            slots = _distinct(group, tensors)
            places = {id(slot): _place(number, group, slot, tensors) for slot in slots}
            readers = [slot for slot in slots if slot.role == "read" and tensors[slot.tensor].ndim >= 2]
            writers = [slot for slot in slots if slot.role == "write"]
            weights = readers or [slot for slot in writers if tensors[slot.tensor].ndim >= 2] or writers
            self._readers += [places[id(slot)] for slot in weights]
            # A variance stays: the channel is zero anyway, and a zero variance would divide by eps alone.
            zeroed = [slot for slot in slots if slot.zeroed and not slot.tensor.endswith("running_var")]
            self._all += [places[id(slot)] for slot in zeroed]
            # Readers that must not be zero need a channel that is.
            free = bool(readers) and all(slot.zeroed for slot in readers)
            self._silent += [places[id(slot)] for slot in (readers if free else zeroed)]
            self._gates += [places[id(slot)] for slot in (readers if free else writers) if slot in zeroed]
        self.weights = tuple(dict.fromkeys(place.tensor for place in self._readers))
        self.readers = _pack(self._readers, self.units)
        self.silenced = _pack(self._silent, self.units)
        self.gated = _pack(self._gates, self.units)
        self.gates = tuple(dict.fromkeys((place.group, place.tensor) for place in self._gates))

    @torch.no_grad()
    def energies(self, scale: Mapping[Tensor, Tensor] | None = None) -> list[Tensor]:
        """Sum over each unit's readers of D·w²; one tensor of shape (units,) per group, float32 or wider.

        Args:
            scale: D, per parameter and of its shape; 1 for a parameter that is not in it.
        """

        def energy(weight: Tensor) -> Tensor:
            squares = _wide(weight).square()
            return squares * scale[weight] if scale is not None and weight in scale else squares

        return self._sums(self._readers, energy)

    @torch.no_grad()
    def magnitudes(self) -> list[Tensor]:
        """Sum over each unit's readers of abs(w), as ``energies``."""
        return self._sums(self._readers, lambda weight: _wide(weight).abs())

    @torch.no_grad()
    def slopes(self, gradients: Mapping[Tensor, Tensor]) -> list[Tensor]:
        """Sum over each unit's gates of w·∂L/∂w, as ``energies``: what L loses per part of the unit that goes.

        Args:
            gradients: ∂L/∂w of the tensors of ``gates``; one that is not in it counts as 0.
        """
        known = [place for place in self._gates if place.tensor in gradients]
        return self._sums(known, lambda weight: _wide(weight) * _wide(gradients[weight]))

    def _sums(self, places: Sequence[_Place], of: Callable[[Tensor], Tensor]) -> list[Tensor]:
        device = self.weights[0].device if self.weights else torch.device("cpu")
        totals = [torch.zeros(units, device=device) for units in self.units]
        reduced: dict[tuple[Tensor, int], Tensor] = {}
        for place in places:
            key = (place.tensor, place.axis)
            if key not in reduced:
                values = of(place.tensor)
                others = [axis for axis in range(values.ndim) if axis != place.axis]
                reduced[key] = values.sum(others) if others else values
            totals[place.group] = totals[place.group] + reduced[key][place.indices].sum(1).to(device)
        return totals

    def silence(self, keep: Sequence[Tensor]) -> None:
        """Zero the readers of dropped units only, so that a unit can grow back; ``keep`` is bool (units,) per group."""
        _fill(self._silent, keep)

    def changed(self, group: int) -> list[Tensor]:
        """The tensors that ``silence`` changes where units of a group are dropped, each once."""
        return list(dict.fromkeys(place.tensor for place in self._silent if place.group == group))

    def zero(self, kept: Kept) -> None:
        """Zero every slice of dropped units: weights, biases, scales, shifts, running means.

        Args:
            kept: Unit indices kept; a group that is not named keeps all.
        """
        keep = []
        for name, units in zip(self._names, self.units, strict=True):
            mask = torch.ones(units, dtype=torch.bool)
            if name in kept:
                mask.zero_()
                mask[torch.from_numpy(np.asarray(kept[name], dtype=np.int64))] = True
            keep.append(mask)
        _fill(self._all, keep)


def _wide(tensor: Tensor) -> Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _distinct(group: WidthGroup, tensors: Mapping[str, Tensor]) -> list[Slot]:
    """The group's slots, those of a tensor that goes by several names once."""
    seen: dict[tuple[int, int, str, bytes], Slot] = {}
    for slot in group.slots:
        if slot.tensor not in tensors:
            raise InputError(
                f"group {group.name!r} lies in tensor {slot.tensor!r}, which the model does not have; "
                "trace this model again"
            )
        key = (id(tensors[slot.tensor]), slot.axis, slot.role, np.ascontiguousarray(slot.indices).tobytes())
        seen.setdefault(key, slot)
    return list(seen.values())


def _place(number: int, group: WidthGroup, slot: Slot, tensors: Mapping[str, Tensor]) -> _Place:
    tensor = tensors[slot.tensor]
    indices = np.asarray(slot.indices, dtype=np.int64).reshape(len(slot.indices), -1)
    fits = slot.axis < tensor.ndim and len(indices) == group.units
    if not fits or (indices.size and not 0 <= indices.min() <= indices.max() < tensor.shape[slot.axis]):
        raise InputError(
            f"group {group.name!r} does not fit tensor {slot.tensor!r} of shape {tuple(tensor.shape)}; "
            "trace this model again"
        )
    return _Place(number, tensor, slot.axis, torch.from_numpy(indices).to(tensor.device))


def _pack(places: Sequence[_Place], units: Sequence[int]) -> tuple[Slices, ...]:
    """One Slices per axis of a tensor; a second one where a position has two owners."""
    first = np.concatenate([[0], np.cumsum(units)])
    packed: dict[tuple[Tensor, int], list[Tensor]] = {}
    for place in places:
        owners = packed.setdefault((place.tensor, place.axis), [])
        indices = place.indices.cpu()
        numbers = torch.arange(len(indices)).add(int(first[place.group]))[:, None].expand_as(indices).flatten()
        free = (owner for owner in owners if bool((owner[indices.flatten()] == first[-1]).all()))
        owner = next(free, None)
        if owner is None:
            owner = torch.full((place.tensor.shape[place.axis],), int(first[-1]))
            owners.append(owner)
        owner[indices.flatten()] = numbers
    return tuple(
        Slices(tensor, axis, owner.to(tensor.device)) for (tensor, axis), owners in packed.items() for owner in owners
    )


@torch.no_grad()
def _fill(places: Sequence[_Place], keep: Sequence[Tensor]) -> None:
    drop = [(~mask).nonzero().flatten().cpu() for mask in keep]
    for place in places:
        dropped = drop[place.group]
        if len(dropped):
            rows = place.indices[dropped.to(place.indices.device)].flatten()
            place.tensor.index_fill_(place.axis, rows, 0)
