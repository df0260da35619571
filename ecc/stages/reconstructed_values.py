r"""The kind ``multi-hash``: each element from several values of a space that all layers share, by a small network.

After the abstracts of FunHashNN (Shi, Feng and Zhu, 2016) and HFH (2017), which give neither the number of hashes nor
the network; the form is our own: :math:`V = \sigma e (z^T g + \tanh(z^T A + c)\, b)` with
:math:`z_u = \xi_u s_{h_u} / \upsilon`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ecc.core.errors import InputError
from ecc.stages.hashed_values import check_empty, columns_of, with_empty
from ecc.stages.hashing import MOST_BUCKETS, HashKey
from ecc.stages.nodes import Form, is_floating, shape_of
from ecc.stages.virtual_weights import Places, reconstructed

__all__ = ["ReconstructedValues", "key_of_reconstructed"]

_MOST_HASHES, _MOST_HIDDEN = 8, 64
_PARAMETERS = {"salt", "run", "unit", "scale"}


class ReconstructedValues:
    """Kind ``multi-hash``.

    Parts: ``space``, s, floats of shape (K,), as a rule a shared part; ``net``, for each hidden unit a row (A of each
    hash, c, b), shape (hidden, hashes + 2); ``gains``, g of each hash and e, shape (hashes + 1,); and ``empty`` as of
    the kind ``hashed``. Parameters: ``salt``; ``run``, elements of a row that read values beside each other; ``unit``,
    υ, and ``scale``, σ: what space and weights are measured in, so that the network's numbers are about 1.
    """

    name = "multi-hash"
    number = 10

    def check(self, form: Form) -> None:
        """Refuse other parts and parameters, and shapes that do not agree."""
        parts = form.parts
        if not {"space", "net", "gains"} <= set(parts) <= {"space", "net", "gains", "empty"}:
            raise InputError("a multi-hash form has a space, a net, gains, and empty rows if any")
        if set(form.parameters) != _PARAMETERS or not all(
            isinstance(form.parameters[name], int) for name in ("salt", "run")
        ):
            raise InputError("a multi-hash form has the whole numbers salt and run, a unit and a scale")
        floats = (form, parts["space"], parts["net"], parts["gains"])
        if not form.shape or not all(is_floating(each) for each in floats):
            raise InputError("a multi-hash form has one axis or more, and it, its space, net and gains are floats")
        space, net, gains = (shape_of(parts[name]) for name in ("space", "net", "gains"))
        if len(space) != 1 or not 1 <= space[0] <= MOST_BUCKETS:
            raise InputError(f"a multi-hash form has a vector as its space, and not of shape {space}")
        if len(gains) != 1 or not 2 <= gains[0] <= _MOST_HASHES + 1:
            raise InputError(f"a multi-hash form has gains of 1 to {_MOST_HASHES} hashes and one more, not {gains}")
        if len(net) != 2 or net[0] > _MOST_HIDDEN or net[1] != gains[0] + 1:
            raise InputError(
                f"a multi-hash form has up to {_MOST_HIDDEN} hidden units of {gains[0] + 1} numbers, not {net}"
            )
        if not float(form.parameters["unit"]) > 0:
            raise InputError("a multi-hash form has a positive unit")
        check_empty(form)
        key_of_reconstructed(form)

    def operand(self, form: Form) -> tuple[int, float]:
        """All entries, of the type's bits."""
        return math.prod(form.shape), 8.0 * form.dtype.itemsize

    def decode(self, form: Form, parts: Mapping[str, Tensor]) -> Tensor:
        """What the network makes of the values where the hashes lead."""
        wide = torch.promote_types(form.dtype, torch.float32)
        space, net, gains = (parts[name].to(wide) for name in ("space", "net", "gains"))
        places = Places(key_of_reconstructed(form), math.prod(form.shape), space.device)
        found = reconstructed(space / form.parameters["unit"], net, gains, places) * form.parameters["scale"]
        return with_empty(found.to(form.dtype).reshape(form.shape), parts)


def key_of_reconstructed(form: Form) -> HashKey:
    """Where the elements of a multi-hash form read."""
    (buckets,), (gains,) = shape_of(form.parts["space"]), shape_of(form.parts["gains"])
    salt, run = int(form.parameters["salt"]), int(form.parameters["run"])
    return HashKey(salt, columns_of(form.shape), buckets, gains - 1, run)
