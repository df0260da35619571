"""Recipes of jobs that prune single weights, alone or after channels; refused where they make no sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

from ecc.api.options import as_scalar, checked_options, names_of, part_of
from ecc.api.recipe import METHODS, Recipe
from ecc.core.errors import InputError
from ecc.core.fields import Scalar
from ecc.core.weights import WeightSolver
from ecc.solvers.settings import TrainConfig
from ecc.solvers.weights.methods import WEIGHT_METHODS as SOLVERS

__all__ = ["MASKING", "WEIGHT_METHODS", "AnyRecipe", "JointRecipe", "WeightRecipe", "recipe_of", "weight_options_of"]

WEIGHT_METHODS: tuple[str, ...] = tuple(SOLVERS)
"""Names of the solvers that prune single weights."""

MASKING = "masked-sgd"
"""The one of them that masks inputs too."""

_OWN = ("epochs", "seed", "device")  # of TrainConfig: the recipe's
_BOTH = (*_OWN, "lr", "distill")
_EVERY_S = 10.0  # between checkpoints
_THEN = "then"
"""Part of the options that say how channels and weights share a job."""


@dataclass(frozen=True, slots=True)
class WeightRecipe:
    """How single weights are pruned.

    Attributes:
        method: A name of WEIGHT_METHODS.
        epochs: Of training in all.
        distill: Weight of the distillation loss, in [0, 1]; the method's own when None.
        lr: Step size of the optimiser; the method's own when None.
        seed: Of every random choice.
        device: Where to train; None for where the model is.
        options: Further settings, ``PART.OPTION`` → value. PART is ``train`` for a field of TrainConfig, or the method
            for one of its own.
    """

    method: str = "projected-sgd"
    epochs: int = 20
    distill: float | None = None
    lr: float | None = None
    seed: int = 0
    device: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in SOLVERS:
            raise InputError(
                f"method {self.method!r} prunes no single weights; choose from {', '.join(WEIGHT_METHODS)}"
            )
        if self.epochs < 1:
            raise InputError(f"epochs must be at least 1, got {self.epochs}")
        for name in self.options:
            part, dot, _ = name.partition(".")
            if not dot or part not in ("train", self.method):
                raise InputError(
                    f"option {name!r} is of no part of a job of {self.method}; write train.OPTION or "
                    f"{self.method}.OPTION"
                )
        self.solver()

    @property
    def settings(self) -> dict[str, Scalar]:
        """The attributes as a JSON object, for manifests; options by their names, objects by those of their types."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "options"}
        return own | {name: as_scalar(value) for name, value in self.options.items()}

    @property
    def masks(self) -> bool:
        """Whether the method masks inputs too."""
        return self.method == MASKING

    def solver(self) -> WeightSolver:
        """The method with its settings; what is not given of its training is its own."""
        kind = cast(Any, SOLVERS[self.method])
        given = self._given
        training = replace(
            kind().training,
            epochs=self.epochs,
            seed=self.seed,
            device=self.device,
            **({"checkpoint_every_s": _EVERY_S} | given),
        )
        own = checked_options(kind, self.method, part_of(self.options, self.method))
        solver: WeightSolver = kind(training=training, **own)
        return solver

    def on(self, device: str | None) -> WeightRecipe:
        """The same, trained on that device."""
        return replace(self, device=device)

    def tuning(self, epochs: int) -> TrainConfig:
        """How the dense network is trained first, where that is asked for."""
        return TrainConfig(
            epochs=epochs, seed=self.seed, device=self.device, **({"checkpoint_every_s": _EVERY_S} | self._given)
        )

    @property
    def _given(self) -> dict[str, Any]:
        """Settings of training that were given."""
        plain = {"lr": self.lr, "distill": self.distill}
        given = {name: value for name, value in plain.items() if value is not None}
        return given | checked_options(TrainConfig, "train", part_of(self.options, "train"), _BOTH)


@dataclass(frozen=True, slots=True)
class JointRecipe:
    """Channels first, then single weights of the network without them.

    Attributes:
        channels: How channels go.
        weights: How weights go then.
        share: Part of the way, on a logarithmic scale, that channels go of budgets that weights finish: to the limit
            L ** share of a budget of L of dense. 0 leaves these budgets to the weights.
    """

    channels: Recipe
    weights: WeightRecipe
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise InputError(f"then.share must be in [0, 1), got {self.share}")

    @property
    def method(self) -> str:
        """Both names."""
        return f"{self.channels.method}+{self.weights.method}"

    @property
    def seed(self) -> int:
        """Of every random choice."""
        return self.channels.seed

    @property
    def device(self) -> str | None:
        """Where to train; None for where the model is."""
        return self.channels.device

    @property
    def settings(self) -> dict[str, Scalar]:
        """Those of the channels, and those of the weights and the share behind ``then.``; the epochs are of both."""
        then = self.weights.settings | {"share": self.share}
        both = {"epochs": self.channels.epochs + self.weights.epochs}
        return self.channels.settings | both | {f"{_THEN}.{name}": value for name, value in then.items()}

    def on(self, device: str | None) -> JointRecipe:
        """The same, trained on that device."""
        return replace(self, channels=self.channels.on(device), weights=self.weights.on(device))

    def tuning(self, epochs: int) -> TrainConfig:
        """How the dense network is trained first, where that is asked for."""
        return self.channels.tuning(epochs)


AnyRecipe = Recipe | WeightRecipe | JointRecipe
"""How a constrained job is run."""


@dataclass(frozen=True, slots=True)
class _Then:
    """Options of a joint job.

    Attributes:
        share: As of JointRecipe.
        epochs: Of the weights' training; half of all when None.
    """

    share: float = 0.5
    epochs: int | None = None


def recipe_of(
    method: str,
    *,
    then: str | None = None,
    epochs: int = 20,
    distill: float | None = None,
    lr: float | None = None,
    rounds: int | None = None,
    chance: float | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str | None = None,
) -> AnyRecipe:
    """The recipe of a method that removes channels, of one that prunes weights, or of one and then the other.

    Args:
        method: A name of METHODS or WEIGHT_METHODS.
        then: A name of WEIGHT_METHODS, behind a method that removes channels.
        epochs: Of training in all; weights that come behind channels have half of them, or ``then.epochs``.
        distill: Of both parts; each one's own when None.
        lr: Of both parts; each one's own when None.
        rounds: Of a method that removes channels; its own when None.
        chance: Of a method that removes channels.
        options: Of all parts; ``then.share`` and ``then.epochs`` for how both share a job.
    Raises:
        InputError: If something of it makes no sense, or belongs to a method of the other kind.
    """
    given = dict(options or {})
    own = {"lr": lr, "distill": distill, "rounds": rounds}
    common: dict[str, Any] = {name: value for name, value in own.items() if value is not None}
    common |= {"seed": seed, "device": device}
    if method in SOLVERS:
        _refuse_channel_settings(method, then, rounds, chance)
        return WeightRecipe(method, epochs, options=given, **common)
    if method not in METHODS:
        raise InputError(f"method {method!r} is unknown; choose from {', '.join((*METHODS, *WEIGHT_METHODS))}")
    if then is None:
        return Recipe(method, epochs, options=given, chance=chance, **common)
    shared = _Then(**checked_options(_Then, _THEN, part_of(given, _THEN)))
    last = epochs // 2 if shared.epochs is None else shared.epochs
    mine = {name: value for name, value in given.items() if name.startswith((f"{then}.", "train."))}
    theirs = {name: value for name, value in given.items() if not name.startswith((f"{then}.", f"{_THEN}."))}
    channels = Recipe(method, epochs - last, options=theirs, chance=chance, **common)
    common.pop("rounds", None)
    return JointRecipe(channels, WeightRecipe(then, last, options=mine, **common), shared.share)


def weight_options_of(method: str) -> dict[str, list[str]]:
    """Names of the options of each part, with which ``WeightRecipe.options`` are written."""
    return {_THEN: names_of(_Then), method: names_of(cast(Any, SOLVERS[method]))}


def _refuse_channel_settings(method: str, then: str | None, rounds: int | None, chance: float | None) -> None:
    """Refuse what only makes sense where channels go."""
    if then is not None:
        raise InputError(
            f"method {method} prunes weights already; give a method that removes channels, such as admm, before {then}"
        )
    for name, value in (("rounds", rounds), ("chance", chance)):
        if value is not None:
            raise InputError(
                f"{name} is of methods that remove channels by cost models that are measured; {method} prunes weights "
                "under a budget that is computed, so leave it out"
            )
