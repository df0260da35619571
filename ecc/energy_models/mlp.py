r"""What the bilinear model leaves over, learnt by an ensemble of small neural networks.

.. math:: E(w) = B(w) \exp\Bigl(\frac{\lambda}{K} \sum_k f_k(w)\Bigr)

B is the bilinear model of the same rows and each :math:`f_k` one hidden layer that was fitted to what a bilinear model
of all rows but the k-th part leaves of these rows. The part left out says when to stop (``mlp_training``) and how far
the networks are to be believed, :math:`\lambda \in [0, 1]`: 0 where they do not predict rows that they have not seen
better than B alone does, so that few rows give the bilinear model and nothing worse.

The networks read each group's relative width and, for some steps g, :math:`\log(g \lceil w / g \rceil / w)`: how much
hardware that counts in steps would do in vain. The value has these steps. The gradient is not its derivative: it holds
the inputs of steps fixed, because nothing is in vain at either end of a step, so that at multiples of g it is the slope
along multiples of g, which is how solvers move.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ecc.core.cost import as_vector
from ecc.core.errors import InputError
from ecc.core.fields import Fields
from ecc.core.layers import SumOfProducts
from ecc.core.table import ProfileTable
from ecc.core.widths import Widths, WidthSpace
from ecc.energy_models import bilinear
from ecc.energy_models.bilinear import BilinearCost
from ecc.energy_models.fitted import FittedCost, ground_of
from ecc.energy_models.least_squares import row_weights
from ecc.energy_models.mlp_training import Networks, Targets, train
from ecc.energy_models.samples import Samples

__all__ = ["Correction", "MlpCost", "fit", "fit_samples"]

Floats = NDArray[np.float64]

_MEMBERS = 5
_HIDDEN = 16
_MOST_WEIGHTS = 1 << 16  # of all networks; more inputs get fewer hidden units
_STEPS = (8, 16, 32, 64)
_NOISE = 0.03  # relative error to expect of any row, as in the bilinear fit
_TUKEY, _MAD = 4.685, 1.4826  # where a row counts nothing, in standard deviations; these in median absolute deviations

_MOST_READ = 1 << 20  # weights of all networks in a file
_LARGEST = 1e9  # number in a file
_FARTHEST = 300.0  # that networks may move a logarithm, so that no cost overflows


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What networks say of widths, as logarithms of factors.

    Attributes:
        group: Number of the group that each input looks at, shape (inputs,).
        step: 0 where it is the relative width, otherwise the step whose last part is not filled, shape (inputs,).
        mean: Subtracted from the input, shape (inputs,), float64.
        scale: It is multiplied by that afterwards, shape (inputs,), float64.
        networks: What reads the inputs.
    """

    group: Tensor
    step: Tensor
    mean: Tensor
    scale: Tensor
    networks: Networks

    def __call__(self, relative: Tensor, channels: Tensor) -> Tensor:
        """What each network says at relative widths and channels, both (…, n_groups): shape (…, K)."""
        return self.networks((_raw(self.group, self.step, relative, channels) - self.mean) * self.scale)

    def to_json(self) -> dict[str, Any]:
        """A JSON value; ``from_fields`` is the inverse."""
        into, bias, out, shift = (tensor.flatten().tolist() for tensor in self.networks.tensors)
        return {
            "groups": self.group.tolist(),
            "steps": self.step.tolist(),
            "mean": self.mean.tolist(),
            "scale": self.scale.tolist(),
            "hidden": self.networks.bias.shape[1],
            "into": into,
            "bias": bias,
            "out": out,
            "shift": shift,
        }

    @classmethod
    def from_fields(cls, fields: Fields, space: WidthSpace, members: int) -> Correction:
        """The inverse of ``to_json``, without trusting it."""
        groups, steps, hidden = fields.wholes("groups"), fields.wholes("steps"), fields.whole("hidden", 1)
        inputs = len(groups)
        if not inputs or inputs != len(steps) or max(groups) >= len(space) or max(steps) > _LARGEST:
            raise InputError("cost model: the inputs of its networks are not those of its groups")
        if inputs * members * hidden > _MOST_READ:
            raise InputError("cost model: its networks have more weights than any that this program fits")
        shapes = {"into": (inputs, members, hidden), "bias": (members, hidden), "out": (members, hidden)}
        tensors = {name: _signed(fields, name, shape) for name, shape in {**shapes, "shift": (members,)}.items()}
        mean, scale = (_signed(fields, name, (inputs,)) for name in ("mean", "scale"))
        return cls(torch.tensor(groups), torch.tensor(steps), mean, scale, Networks(**tensors))


@dataclass(frozen=True, eq=False, kw_only=True, repr=False)
class MlpCost(FittedCost):
    """A bilinear model times what networks say of its error; see FittedCost for what it rests on.

    Attributes:
        base: The bilinear model of all rows.
        rivals: What bilinear models without a part of the rows have for coefficients, constant first, in s or J; one
            row per member.
        correction: What the networks say; None where rows they had not seen did not speak for them.
    """

    form = "mlp"

    base: BilinearCost
    rivals: tuple[tuple[float, ...], ...]
    correction: Correction | None

    def __post_init__(self) -> None:
        super().__post_init__()
        wanted = 1 + len(self.base.terms)
        if not self.rivals or not all(len(values) == wanted and sum(values) > 0 for values in self.rivals):
            raise InputError("MlpCost: each member must have one coefficient per term of the base, not all zero")
        if self.correction is not None and not self.correction.networks.bound <= _FARTHEST:
            raise InputError(f"MlpCost: networks must not move a cost by more than a factor of e^{_FARTHEST:.0f}")

    @property
    def coefficients(self) -> dict[str, float]:
        """Those of the bilinear model, in s or J; what networks say is in no single number."""
        return self.base.coefficients

    @cached_property
    def _dense(self) -> Tensor:
        return torch.tensor(self.space.dense, dtype=torch.float64)

    @cached_property
    def _rivals(self) -> tuple[SumOfProducts, Tensor]:
        """The products of the base, and each member's coefficients, shape (1 + n_terms, K)."""
        values = torch.tensor(self.rivals, dtype=torch.float64).T
        return SumOfProducts(self.space, [term.sides for term in self.base.terms]), values

    def evaluate(self, widths: Tensor) -> Tensor:
        """The base times the mean correction at channels of shape (…, n_groups): shape (…).

        The gradient holds the inputs of steps fixed: it is the slope along whole steps, not the derivative within one.
        """
        base = self.base.evaluate(widths)
        if self.correction is None:
            return base
        return base * self.correction(widths / self._dense, widths).mean(-1).exp()

    def spread(self, widths: Widths | Tensor) -> Tensor:
        """Standard error of the logarithm at widths (a mapping, or channels of shape (…, n_groups)): shape (…).

        How much the model would change with other rows, from members that each lack a part of them (the jackknife);
        not the noise of a row, and not what no member can express: ``interval`` holds all three.
        """
        vector = as_vector(self.space, widths)
        products, values = self._rivals
        says = (values[0] + products(vector) @ values[1:]).clamp_min(1e-300).log()
        if self.correction is not None:
            says = says + self.correction(vector / self._dense, vector)
        return math.sqrt(len(self.rivals) - 1) * says.std(-1, correction=0)

    def members(self) -> dict[str, Any]:
        """The base, the members' coefficients and the networks."""
        value: dict[str, Any] = {"base": self.base.members(), "members": [list(values) for values in self.rivals]}
        return value if self.correction is None else {**value, "correction": self.correction.to_json()}

    @classmethod
    def read(cls, fields: Fields, ground: Mapping[str, Any]) -> Self:
        """The inverse of ``members``."""
        base = BilinearCost.read(fields.inner("base"), ground)
        rows = fields.items("members")
        if len(rows) * (1 + len(base.terms)) > _MOST_READ:
            raise InputError("cost model: has more members than any that this program fits")
        rivals = tuple(_coefficients(row) for row in rows)
        given = "correction" in fields
        correction = Correction.from_fields(fields.inner("correction"), ground["space"], len(rivals)) if given else None
        return cls(**ground, base=base, rivals=rivals, correction=correction)


def fit(table: ProfileTable, metric: str, *, robust: bool = False, seed: int = 0) -> MlpCost:
    """Fit to all rows of a profile; ``judging.judge`` also says how good it is.

    Args:
        robust: Whether rows far from what the others say count less, up to nothing.
        seed: Of the parts that rows are cut in and of the networks.

    Raises:
        InputError: If the rows cannot carry a fit; see Samples.of.
    """
    return fit_samples(Samples.of(table, metric), robust=robust, seed=seed)


def fit_samples(samples: Samples, *, robust: bool = False, seed: int = 0) -> MlpCost:
    """Fit to rows that are already checked; arguments as of ``fit``."""
    part = _parts(samples, seed)
    base = bilinear.fit_samples(samples, robust=robust)
    rivals = [
        bilinear.fit_samples(samples.take(np.flatnonzero(part != number)), robust=robust)
        for number in range(max(int(part.max()) + 1, 1))
    ]
    return MlpCost(
        **ground_of(samples),
        base=base,
        rivals=tuple((each.constant, *(term.value for term in each.terms)) for each in rivals),
        correction=_correction(samples, rivals, part, robust, seed),
    )


def _parts(samples: Samples, seed: int) -> NDArray[np.int64]:
    """Which part each row is in, shape (n_rows,); −1 in none. Rows of the same widths are in the same part.

    As in judging, only rows drawn at random are left out in turn, unless there are too few of them.
    """
    rows = np.flatnonzero(samples.random)
    if len(rows) < _MEMBERS:
        rows = np.arange(len(samples))
    _, kind = np.unique(samples.widths[rows], axis=0, return_inverse=True)
    kinds = int(kind.max()) + 1
    part = np.full(len(samples), -1)
    if kinds > 1:
        places = np.random.default_rng(seed).permutation(kinds) % min(_MEMBERS, kinds)
        part[rows] = places[kind.reshape(-1)]
    return part


def _correction(
    samples: Samples, rivals: list[BilinearCost], part: NDArray[np.int64], robust: bool, seed: int
) -> Correction | None:
    """Networks fitted to what each member leaves over, believed as far as rows not seen by them say; None where not."""
    widths = torch.tensor(samples.widths)
    costs = torch.stack([each.evaluate(widths) for each in rivals], -1).numpy() / samples.reference[0]
    held = part >= 0
    if not held.any() or not (costs > 0).all():
        return None
    left = np.log(samples.ratio[:, None] / costs)
    honest = np.where(held, left[np.arange(len(left)), part], left.mean(axis=1))
    weights = row_weights(samples.noise, _NOISE) ** 2
    if robust:
        weights = weights * _trust(honest)
    scale = math.sqrt(float(np.average(honest[held] ** 2, weights=weights[held]))) if weights[held].sum() else 0.0
    group, step, raw = _inputs(samples)
    if scale < 1e-9 or not len(group):
        return None
    mean, slope = raw.mean(axis=0), 1 / raw.std(axis=0)
    targets = Targets((raw - mean) * slope, left / scale, part, weights)
    hidden = max(1, min(_HIDDEN, _MOST_WEIGHTS // (len(group) * len(rivals))))
    networks, told = train(targets, hidden=hidden, seed=seed)
    belief = _belief(honest[held] / scale, told[held], weights[held])
    if belief == 0:
        return None
    return Correction(group, step, torch.from_numpy(mean), torch.from_numpy(slope), networks.scaled(scale * belief))


def _belief(left: Floats, told: Floats, weights: Floats) -> float:
    """How far to go the way that networks point, in [0, 1], from rows that they have not seen; all shape (n_rows,).

    The way is as long as least squares say, and is shortened by what the gain may be by chance: 1 − 1 / z² of it is
    gone, with z the gain in its standard errors, and none below z = 1.
    """
    length = float((weights * told * told).sum())
    if length == 0:
        return 0.0
    share = min(max(float((weights * left * told).sum()) / length, 0.0), 1.0)
    gain = weights * (left**2 - (left - share * told) ** 2)
    spread = float(gain.std()) / math.sqrt(len(gain))
    certainty = float(gain.mean()) / spread if spread else 0.0
    return share * max(0.0, 1 - certainty**-2) if certainty > 0 else 0.0


def _trust(left: Floats) -> Floats:
    """Weight of each row by how far it lies from what the others say: Tukey's function, shape (n_rows,)."""
    middle = float(np.median(left))
    scale = max(_MAD * float(np.median(np.abs(left - middle))), _NOISE)
    return np.asarray(np.maximum(1 - ((left - middle) / (_TUKEY * scale)) ** 2, 0.0) ** 2)


def _inputs(samples: Samples) -> tuple[Tensor, Tensor, Floats]:
    """Group and step of each input that varies over the rows, and its values, shape (n_rows, inputs)."""
    dense = np.array(samples.space.dense)
    pairs = [(group, step) for step in (0, *_STEPS) for group in range(len(dense)) if dense[group] > step]
    group, step = torch.tensor(pairs).T
    channels = torch.tensor(samples.widths)
    raw = _raw(group, step, channels / torch.tensor(dense), channels).numpy()
    varies = raw.std(axis=0) > 1e-9
    return group[varies], step[varies], raw[:, varies]


def _raw(group: Tensor, step: Tensor, relative: Tensor, channels: Tensor) -> Tensor:
    """The inputs before they are standardised: shape (…, inputs). Those of steps have no gradient."""
    whole = channels.detach()[..., group].clamp_min(1.0)
    size = step.clamp_min(1)
    vain = (torch.ceil(whole / size - 1e-9) * size / whole).log()
    return torch.where(step > 0, vain, relative[..., group])


def _signed(fields: Fields, name: str, shape: tuple[int, ...]) -> Tensor:
    """A list of finite numbers as a tensor of that shape."""
    values = fields.items(name)
    if len(values) != math.prod(shape) or not all(_is_sensible(value) for value in values):
        raise InputError(f"cost model: {name!r} must be a list of {math.prod(shape)} numbers of sensible size")
    return torch.tensor([float(value) for value in values], dtype=torch.float64).reshape(shape)


def _coefficients(row: object) -> tuple[float, ...]:
    if not isinstance(row, list) or not all(_is_sensible(value) and value >= 0 for value in row):
        raise InputError("cost model: 'members' must be lists of numbers ≥ 0")
    return tuple(float(value) for value in row)


def _is_sensible(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST
