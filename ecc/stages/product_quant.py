"""The stage ``product-quant``: parts of rows as entries of a codebook (Jégou et al., 2011; Gong et al., 2014).

Each row of D elements is cut in parts of d, and k-means with up to 2^b centroids makes the codebook; d = 1 is shared
values. Any matrix: convolutions count as (out, in·kh·kw). No data and no training.

A small tensor has too few codes to pay for 2^b centroids, and what it can pay for may be next to nothing: 2 centroids
for the 80 pairs of a first convolution. Where a codebook had to be cut and the error exceeds a bound, the parts are
halved: there are more of them then, and a centroid costs less. What exceeds it even with parts of one element stays as
it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.code import Code, State, Workshop
from ecc.core.errors import InputError, NothingToDo
from ecc.stages import kmeans
from ecc.stages.candidates import LEFT
from ecc.stages.code import PackedCode, decode_node, packed, weight_names
from ecc.stages.importance import IMPORTANCES, row_importance
from ecc.stages.nodes import Form, Node, Numbers, Symbols, map_weights
from ecc.stages.vectors import cluster, nearest

__all__ = ["PartSetting", "ProductQuant", "encode_product", "stored_bits"]

Floats = NDArray[np.float64]
_UNEQUAL = 0.1  # relative spread of the columns' standard deviations from which scaling them is tried


@dataclass(frozen=True, slots=True)
class PartSetting:
    """How one tensor is quantised.

    Attributes:
        part: Elements that share a code, d.
        bits: Of a code, b; less where the tensor is too small for so large a codebook.
        codebooks: One that is ``shared`` by all parts of a row, or one per ``position`` in it.
    """

    part: int
    bits: int
    codebooks: Literal["shared", "position"] = "shared"

    @property
    def label(self) -> str:
        """Short name for tables."""
        return f"{self.part}x{self.bits}" + ("p" if self.codebooks == "position" else "")


@dataclass(frozen=True, slots=True)
class ProductQuant:
    """Quantise parts of rows together.

    Attributes:
        part: Elements that share a code, d: 2 is best at about 5 times smaller, 4 beyond.
        bits: Of a code, b, from 1 to 16. A codebook is never larger than its codes: small tensors have fewer bits.
        codebooks: ``shared`` by all positions in a row, or one per ``position``, which pays for very many rows.
        scaling: Divide columns by their standard deviation first: ``on``, ``off``, or ``auto`` where it lowers the
            error.
        importance: What rows weigh in the k-means: ``equal``, ``uses`` (how often an embedding reads them) or
            ``outputs`` (how far the network's outputs move with them); the latter two need training data.
        most_error: Bound on the squared error relative to the squares of the weights, for tensors too small for 2^b
            centroids: those that exceed it have smaller parts, or stay as they are. From 1 on all are quantised.
        seed: Of the k-means.
        layers: Names or patterns of the weights; all where empty.
    """

    part: int = 2
    bits: int = 12
    codebooks: Literal["shared", "position"] = "shared"
    scaling: Literal["auto", "on", "off"] = "auto"
    importance: str = "equal"
    most_error: float = 0.05
    seed: int = 0
    layers: tuple[str, ...] = ()

    name = "product-quant"

    def __post_init__(self) -> None:
        if self.part < 1:
            raise InputError(f"ProductQuant(part=...) must be at least 1, got {self.part}")
        if not 1 <= self.bits <= 16:
            raise InputError(f"ProductQuant(bits=...) must be from 1 to 16, got {self.bits}")
        if not self.most_error > 0:
            raise InputError(f"ProductQuant(most_error=...) must be above 0, got {self.most_error}")
        for option, value, known in (
            ("codebooks", self.codebooks, ("shared", "position")),
            ("scaling", self.scaling, ("auto", "on", "off")),
            ("importance", self.importance, IMPORTANCES),
        ):
            if value not in known:
                raise InputError(f"ProductQuant({option}=...) must be one of {', '.join(known)}, got {value!r}")

    def encode(
        self, state: State | Code, workshop: Workshop | None = None, *, chosen: Mapping[str, PartSetting] | None = None
    ) -> PackedCode:
        """Every matrix of weights as codes of parts; one that would not get smaller, or be too wrong, stays as it is.

        Args:
            chosen: Settings by name of a tensor, in the place of the stage's own options and whatever the error.

        Raises:
            NothingToDo: If none gets smaller.
            InputError: If weights are not finite, or ``importance`` needs a workshop.
        """
        code = packed(state)
        names = weight_names(code, self.layers)
        weights = row_importance(self.importance, code, names, workshop)
        own, given = PartSetting(self.part, self.bits, self.codebooks), chosen or {}
        nodes = {
            name: self._encode(
                name, code.nodes[name], given.get(name, own), weights, 1.0 if name in given else self.most_error
            )
            for name in names
        }
        if all(node is code.nodes[name] for name, node in nodes.items()):
            raise NothingToDo(
                "product-quant makes none of the weights smaller: they are too few for codebooks that keep to "
                f"most_error={self.most_error:g}, or quantised already"
            )
        return replace(code, nodes={**code.nodes, **nodes})

    def departures(self, before: PackedCode, after: PackedCode) -> dict[str, str]:
        """Tensors that ``encode`` gave other parts or fewer bits than the options say, or left as they were."""
        found: dict[str, str] = {}
        for name in weight_names(before, self.layers):
            labels = {_label_of(form) for form in _products(after.nodes[name])}
            if after.nodes[name] is before.nodes[name]:
                found[name] = LEFT
            elif departing := sorted(labels - {PartSetting(self.part, self.bits, self.codebooks).label}):
                found[name] = ", ".join(departing)
        return found

    def choices(self, name: str, node: Node) -> Sequence[PartSetting]:
        """From 8 bits per element down to 1."""
        pairs = ((1, 8), (1, 7), (1, 6), (1, 5), (2, 12), (2, 10), (2, 8), (4, 12), (4, 10), (4, 8), (8, 12), (8, 8))
        return [PartSetting(part, bits, self.codebooks) for part, bits in pairs]

    def encode_node(self, name: str, node: Node, setting: PartSetting) -> Node:
        """The node with its matrices of floats as codes of parts; the same node where none gets smaller.

        Raises:
            InputError: If weights are not finite.
        """
        return self._encode(name, node, setting, {}, 1.0)

    def _encode(
        self, name: str, node: Node, setting: PartSetting, weights: Mapping[str, Floats], most_error: float
    ) -> Node:
        found: list[Form] = []

        def change(leaf: Numbers) -> Node:
            if leaf.values.ndim < 2 or not leaf.values.numel():
                return leaf
            if not bool(leaf.values.isfinite().all()):
                raise InputError(f"the weights {name!r} hold values that are not finite and cannot be quantised")
            rows = weights.get(name)
            rows = rows if rows is not None and len(rows) == len(leaf.values) else None
            form = self._within(leaf.values, setting, rows, most_error)
            if form is None or stored_bits(form) >= 8 * leaf.values.numel() * leaf.values.element_size():
                return leaf
            found.append(form)
            return form

        changed = map_weights(node, change)
        return changed if found else node

    def _within(self, values: Tensor, setting: PartSetting, rows: Floats | None, most_error: float) -> Form | None:
        """The form with the largest parts whose codebook is whole or its error within the bound; None without one."""
        part = min(setting.part, values[0].numel())
        while part:
            form = encode_product(
                values, replace(setting, part=part), weights=rows, scaling=self.scaling, seed=self.seed
            )
            whole = _entries_of(form) == 1 << setting.bits
            if whole or most_error >= 1 or _relative_error(form, values, rows) <= most_error:
                return form
            part //= 2
        return None


def encode_product(
    values: Tensor,
    setting: PartSetting,
    *,
    weights: Floats | None = None,
    scaling: Literal["auto", "on", "off"] = "auto",
    seed: int = 0,
    steps: int = 30,
    capped: bool = True,
) -> Form:
    """A matrix as codes of parts of its rows.

    Args:
        values: Finite, two axes or more, at least one element.
        setting: Size of parts and codebooks; parts are at most a row.
        weights: Of the rows, shape (rows,); all equal when None.
        scaling: As in ``ProductQuant``.
        seed: Of the k-means.
        steps: Of the k-means, where parts have more than one element.
        capped: Whether the codebook may be no larger than its codes.
    """
    matrix = values.detach().reshape(len(values), -1).double().numpy()
    deviations = matrix.std(0)
    unequal = deviations.std() > _UNEQUAL * deviations.mean()
    row_weights = np.ones(len(matrix)) if weights is None or not weights.any() else weights
    search = _Search(seed, steps, capped)
    plain = _product(values, matrix, setting, row_weights, None, search)
    if scaling == "off" or (scaling == "auto" and not unequal):
        return plain
    scale = np.where(deviations > 0, deviations, 1.0)
    scaled = _product(values, matrix, setting, row_weights, scale, search)
    if scaling == "on" or _error(scaled, values, row_weights) < _error(plain, values, row_weights):
        return scaled
    return plain


def stored_bits(form: Form) -> int:
    """Bits of a product form before any entropy coding, without the container's names and headers."""
    bits = 0
    for part in form.parts.values():
        if isinstance(part, Symbols):
            bits += len(part.values) * (part.size - 1).bit_length()
        elif isinstance(part, Numbers):
            bits += 8 * part.values.numel() * part.values.element_size()
    return bits


@dataclass(frozen=True, slots=True)
class _Search:
    """How codebooks are looked for; see ``encode_product``."""

    seed: int
    steps: int
    capped: bool


def _product(
    values: Tensor, matrix: Floats, setting: PartSetting, weights: Floats, scale: Floats | None, search: _Search
) -> Form:
    rows, columns = matrix.shape
    part = min(setting.part, columns)
    positions = -(-columns // part)
    scaled = matrix if scale is None else matrix / scale
    # A codebook's points weigh what an error in them costs: the squared scale of their columns, times the row's weight.
    widths = [slice(i * part, min((i + 1) * part, columns)) for i in range(positions)]
    worth = np.array([1.0 if scale is None else float(np.square(scale[width]).mean()) for width in widths])
    shared = setting.codebooks == "shared"
    entries = 1 << setting.bits
    if search.capped:
        entries = _entries(setting.bits, rows * positions if shared else rows, part, 8 * values.element_size())
    whole = columns // part  # the last part may be cut off; a codebook is fitted to whole ones
    if shared:
        points = scaled[:, : whole * part].reshape(-1, part)
        book = _codebook(points, entries, np.outer(weights, worth[:whole]).ravel(), search)
        books = [book] * positions
    else:
        books = [_codebook(scaled[:, width], entries, weights, search) for width in widths]
    codes = np.stack(
        [
            _nearest(scaled[:, width], book[:, : width.stop - width.start])
            for width, book in zip(widths, books, strict=True)
        ],
        axis=1,
    )
    centroids = books[0] if shared else np.stack([_widened(book, max(map(len, books)), part) for book in books])
    size = centroids.shape[-2]
    dtype = np.uint8 if size <= 1 << 8 else np.uint16
    parts: dict[str, Node] = {
        "codes": Symbols(codes.ravel().astype(dtype), size),
        "centroids": Numbers(_dense(centroids, values.dtype)),
    }
    if scale is not None:
        parts["scale"] = Numbers(_dense(scale, values.dtype))
    return Form("product", tuple(values.shape), values.dtype, {}, parts)


def _dense(values: Floats, dtype: torch.dtype) -> Tensor:
    """A tensor with the strides of its shape: axes of one element may have any in NumPy, and 0 where it added them."""
    return torch.from_numpy(values).to(dtype, copy=True, memory_format=torch.contiguous_format)


def _entries(bits: int, points: int, part: int, float_bits: int) -> int:
    """Of a codebook for so many points: 2^bits, halved until it is no larger than their codes."""
    while bits > 1 and (1 << bits) * part * float_bits > points * bits:
        bits -= 1
    return 1 << bits


def _codebook(points: Floats, entries: int, weights: Floats, search: _Search) -> Floats:
    """Centroids (at most entries, part): exact Lloyd steps in one dimension, else k-means from D² samples.

    Parts that are zero stay zero: padding of texts is read many times, and removed channels must not come back.
    """
    some = points.any(axis=1)
    if not some.all():
        zero = np.zeros((1, points.shape[1]))
        if not some.any():
            return zero
        book = np.concatenate([_codebook(points[some], max(entries - 1, 1), weights[some], search), zero])
        return np.sort(book, axis=0) if points.shape[1] == 1 else book
    if points.shape[1] == 1:
        weights = weights if weights.any() else np.ones(len(weights))
        return kmeans.lloyd(points[:, 0], entries, weights=weights, init="cube-root", seed=search.seed)[:, None]
    return cluster(points, entries, weights=weights, seed=search.seed, steps=search.steps).astype(np.float64)


def _nearest(points: Floats, centroids: Floats) -> NDArray[np.int64]:
    return kmeans.nearest(points[:, 0], centroids[:, 0]) if _rising(centroids) else nearest(points, centroids)


def _rising(centroids: Floats) -> bool:
    return centroids.shape[1] == 1 and bool(np.all(np.diff(centroids[:, 0]) > 0))


def _widened(book: Floats, entries: int, part: int) -> Floats:
    """A codebook of the shape that all positions have, its last entry repeated."""
    wide = np.zeros((entries, part))
    wide[: len(book), : book.shape[1]] = book
    wide[len(book) :] = wide[len(book) - 1]
    return wide


def _error(form: Form, values: Tensor, weights: Floats) -> float:
    difference = (decode_node(form).double() - values.detach().double()).reshape(len(values), -1)
    return float((difference.square().sum(1).numpy() * weights).sum())


def _relative_error(form: Form, values: Tensor, weights: Floats | None) -> float:
    """Squared error by the squares of the values, rows weighed as in the k-means; 0 for zeros that stay zeros."""
    rows = np.ones(len(values)) if weights is None or not weights.any() else weights
    squares = float((values.detach().double().reshape(len(values), -1).square().sum(1).numpy() * rows).sum())
    error = _error(form, values, rows)
    return error / squares if squares > 0 else error


def _entries_of(form: Form) -> int:
    """Of a product form's codebook."""
    codes = form.parts["codes"]
    return codes.size if isinstance(codes, Symbols) else 0


def _label_of(form: Form) -> str:
    """The setting that a product form has come to."""
    centroids = form.parts["centroids"]
    shape = centroids.values.shape if isinstance(centroids, Numbers) else (0, 0)
    bits = max((_entries_of(form) - 1).bit_length(), 1)
    return PartSetting(shape[-1], bits, "position" if len(shape) > 2 else "shared").label


def _products(node: Node) -> Iterator[Form]:
    """The product forms of a tree."""
    if isinstance(node, Form) and node.kind == "product":
        yield node
    elif isinstance(node, Form):
        for part in node.parts.values():
            yield from _products(part)
