"""Kinds of forms: the rules by which tensors are put together from parts, by name.

A kind is one small class in the file of the stage that makes it. Its decoding consists of operations of torch and is
differentiable in the parts that are floats. ``check`` comes first and bounds what decoding may allocate: the forms of
a file are not to be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Protocol

from torch import Tensor

from ecc.stages.factors import Factors, RelaidFactors
from ecc.stages.fixed_point.fixed import Fixed
from ecc.stages.fixed_point.split import Sum
from ecc.stages.half_precision import HalfPrecision
from ecc.stages.hashed_values import HashedValues
from ecc.stages.log_levels import LogLevels
from ecc.stages.nodes import Form
from ecc.stages.product_codes import ProductCodes
from ecc.stages.reconstructed_values import ReconstructedValues
from ecc.stages.row_levels import RowLevels
from ecc.stages.shared_parts import SharedPart
from ecc.stages.shared_values import SharedValues
from ecc.stages.sparse_index import SparseIndex

__all__ = ["KINDS", "Kind"]


class Kind(Protocol):
    """One rule."""

    @property
    def name(self) -> str:
        """As in ``Form.kind``."""

    @property
    def number(self) -> int:
        """In the container, from 1 to 255; never changed once files have it."""

    def check(self, form: Form) -> None:
        """Refuse a form whose parts are not those of the rule or do not agree with its shape and parameters.

        Raises:
            InputError: With what does not agree.
        """

    def operand(self, form: Form) -> tuple[int, float]:
        """How many entries are stored (zeros that are left out are not), and the bits of each where it is multiplied.

        A code of b bits counts b, whatever the entropy coder makes of it and however wide its codebook is.
        """

    def decode(self, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        """The tensor of ``form.shape`` and ``form.dtype``.

        Args:
            form: That ``check`` has passed.
            parts: Each part decoded: symbols as int64 of shape (n,), numbers as they are, forms as their tensors.

        Raises:
            InputError: If values of the parts are impossible (a position beyond the tensor).
        """


_ALL: tuple[Kind, ...] = (
    SharedPart(),
    SparseIndex(),
    SharedValues(),
    HalfPrecision(),
    LogLevels(),
    ProductCodes(),
    RowLevels(),
    Fixed(),
    Sum(),
    HashedValues(),
    ReconstructedValues(),
    Factors(),
    RelaidFactors(),
)

KINDS: Mapping[str, Kind] = MappingProxyType({kind.name: kind for kind in _ALL})
"""By name."""
