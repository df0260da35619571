"""Recipe: how a constrained job is run, refused at construction where it makes no sense."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

from ecc.api.chance import demand_chance
from ecc.api.options import as_scalar, checked_options, names_of, part_of
from ecc.core.errors import InputError
from ecc.core.fields import Scalar
from ecc.core.problem import Solver
from ecc.solvers.methods import METHODS as SOLVERS
from ecc.solvers.settings import TrainConfig

__all__ = ["METHODS", "Recipe", "options_of"]

METHODS: tuple[str, ...] = tuple(SOLVERS)
"""Names of the solvers."""

_PARTS = ("train", "solve", "tune")
"""Options of training: in the solver and in tuning, in the solver alone, in tuning alone."""

_OWN = ("epochs", "seed", "device")  # of TrainConfig: the recipe's
_BOTH = (*_OWN, "lr", "distill")  # what the recipe gives to solver and tuning alike
_EVERY_S = 10.0  # between checkpoints


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a constrained job is run.

    Attributes:
        method: A name of METHODS.
        epochs: Of training in all: the solver's and those of tuning the slim network.
        distill: Weight of the distillation loss, in [0, 1].
        lr: Step size of the optimiser, in the solver and in tuning.
        solve_share: Part of the epochs that a solver which trains may use.
        rounds: How often widths may be measured and corrected.
        measure_s: Longest time of the last measurement; those that correct take at most half of it.
        seed: Of every random choice.
        device: Where to train; None for where the model is.
        chance: Probability with which the cost models' predictions keep each budget, from 0.5 to below 1; None budgets
            what they expect.
        options: Further settings, ``PART.OPTION`` → value. PART is ``train`` for a field of TrainConfig (``solve`` or
            ``tune`` for the solver's training or tuning alone), or the method for one of its own.
    """

    method: str = "admm"
    epochs: int = 20
    distill: float = 0.5
    lr: float = 1e-3
    solve_share: float = 0.25
    rounds: int = 6
    measure_s: float = 20.0
    seed: int = 0
    device: str | None = None
    chance: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method {self.method!r} is unknown; choose from {', '.join(METHODS)}")
        for name in ("epochs", "rounds", "seed"):
            if type(value := getattr(self, name)) is not int:
                raise InputError(f"{name} must be a whole number, got {value!r}")
        for name in ("solve_share", "measure_s"):
            if not isinstance(value := getattr(self, name), int | float):
                raise InputError(f"Recipe({name}=...) must be a number, got {value!r}")
        if self.epochs < (2 if self.trains else 1):
            least = f"2 for {self.method}, one to solve and one to tune" if self.trains else "1"
            raise InputError(f"epochs must be at least {least}, got {self.epochs}")
        if not 0 < self.solve_share < 1:
            raise InputError(f"Recipe(solve_share=...) must be in (0, 1), got {self.solve_share}")
        if not 0 < self.measure_s < 1e6:
            raise InputError(f"Recipe(measure_s=...) must be a number of seconds, got {self.measure_s}")
        if self.rounds < 1:
            raise InputError(f"rounds must be at least 1, got {self.rounds}")
        demand_chance(self.chance)
        self._demand_parts()
        self.solver()
        _demand_warm("tune", self.tuning(self.epochs - self.solve_epochs))

    @property
    def _kind(self) -> Any:
        """The class of the method, a dataclass."""
        return SOLVERS[self.method]

    @property
    def trains(self) -> bool:
        """Whether the method trains; others choose widths only."""
        return any(each.name == "training" for each in fields(self._kind))

    @property
    def depth(self) -> bool:
        """Whether the method may remove residual blocks beside channels."""
        return self.options.get(f"{self.method}.depth") is True

    @property
    def solve_epochs(self) -> int:
        """Epochs of the solver; baselines that do not train leave all of them to tuning."""
        if not self.trains:
            return 0
        return min(max(round(self.epochs * self.solve_share), 1), self.epochs - 1)

    @property
    def settings(self) -> dict[str, Scalar]:
        """The attributes as a JSON object, for manifests; options by their names, objects by those of their types."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "options"}
        return own | {name: as_scalar(value) for name, value in self.options.items()}

    def solver(self) -> Solver:
        """The method with its settings."""
        kind = self._kind
        options = checked_options(kind, self.method, part_of(self.options, self.method))
        if self.trains:
            # A cosine would be over before the widths are: ECC's steps need weights that still move.
            usual = {"schedule": "constant", "dropout": False}
            options["training"] = self._training("solve", self.solve_epochs, usual)
            _demand_warm("solve", options["training"])
        solver: Solver = kind(**options)
        return solver

    def on(self, device: str | None) -> Recipe:
        """The same, trained on that device."""
        return replace(self, device=device)

    def tuning(self, epochs: int) -> TrainConfig:
        """How the slim network is trained."""
        return self._training("tune", epochs, {})

    def _training(self, part: str, epochs: int, usual: Mapping[str, Any]) -> TrainConfig:
        own = {"lr": self.lr, "distill": self.distill, "checkpoint_every_s": _EVERY_S, **usual}
        own |= checked_options(TrainConfig, "train", part_of(self.options, "train"), _BOTH)
        own |= checked_options(TrainConfig, part, part_of(self.options, part), _OWN)
        return TrainConfig(epochs=epochs, seed=self.seed, device=self.device, **own)

    def _demand_parts(self) -> None:
        for name in self.options:
            part, dot, _ = name.partition(".")
            if not dot or part not in (*_PARTS, self.method):
                other = f", and the method is {self.method}" if part in METHODS else ""
                raise InputError(
                    f"option {name!r} is of no part of this job{other}; write train.OPTION, solve.OPTION, tune.OPTION "
                    f"or {self.method}.OPTION"
                )
        if part_of(self.options, "solve") and not self.trains:
            raise InputError(
                f"options of solve are for methods that train, and {self.method} does not; use tune.OPTION"
            )


def _demand_warm(part: str, training: TrainConfig) -> None:
    """Refuse a warm-up that outlasts its training: the step size would never be the one that is asked for."""
    if training.warmup_epochs > training.epochs:
        raise InputError(
            f"option {part}.warmup_epochs must be within the {training.epochs} epoch(s) of {part}, got "
            f"{training.warmup_epochs:g}; give fewer, or more epochs"
        )


def options_of(method: str) -> dict[str, list[str]]:
    """Names of the options of each part, with which ``Recipe.options`` are written."""
    return {"train": names_of(TrainConfig, _BOTH), method: names_of(cast(Any, SOLVERS[method]))}
