"""Recipe: how a constrained job is run, refused at construction where it makes no sense."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from ecc.core.errors import InputError
from ecc.core.problem import Solver
from ecc.solvers.admm import Admm
from ecc.solvers.baselines.magnitude import Magnitude
from ecc.solvers.baselines.uniform import Uniform
from ecc.solvers.settings import TrainConfig

__all__ = ["METHODS", "Recipe"]

METHODS: tuple[str, ...] = ("admm", "uniform", "magnitude")
"""Names of the solvers."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a constrained job is run.

    Attributes:
        method: A name of METHODS.
        epochs: Of training in all: the solver's and those of tuning the slim network.
        distill: Weight of the distillation loss, in [0, 1].
        lr: Learning rate of Adam, in the solver and in tuning.
        solve_share: Part of the epochs that a solver which trains may use.
        rounds: How often widths may be measured and corrected.
        measure_s: Longest time of the last measurement; those that correct take at most half of it.
        seed: Of every random choice.
        device: Where to train; None for where the model is.
    """

    method: str = "admm"
    epochs: int = 20
    distill: float = 0.5
    lr: float = 1e-3
    solve_share: float = 0.5
    rounds: int = 6
    measure_s: float = 20.0
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method {self.method!r} is unknown; choose from {', '.join(METHODS)}")
        if self.epochs < (2 if self.method == "admm" else 1):
            least = "2 for admm, one to solve and one to tune" if self.method == "admm" else "1"
            raise InputError(f"epochs must be at least {least}, got {self.epochs}")
        if not 0 < self.solve_share < 1:
            raise InputError(f"Recipe(solve_share=...) must be in (0, 1), got {self.solve_share}")
        if not 0 < self.measure_s < 1e6:
            raise InputError(f"Recipe(measure_s=...) must be a number of seconds, got {self.measure_s}")
        if self.rounds < 1:
            raise InputError(f"Recipe(rounds=...) must be at least 1, got {self.rounds}")
        self.tuning(0)

    @property
    def solve_epochs(self) -> int:
        """Epochs of the solver; baselines that do not train leave all of them to tuning."""
        if self.method != "admm":
            return 0
        return min(max(round(self.epochs * self.solve_share), 1), self.epochs - 1)

    @property
    def settings(self) -> dict[str, str | int | float | bool | None]:
        """The attributes as a JSON object, for manifests."""
        return asdict(self)

    def solver(self) -> Solver:
        """The method with its settings."""
        if self.method == "uniform":
            return Uniform()
        if self.method == "magnitude":
            return Magnitude()
        training = TrainConfig(
            epochs=self.solve_epochs,
            lr=self.lr,
            schedule="constant",
            distill=self.distill,
            dropout=False,
            checkpoint_every_s=10.0,
            device=self.device,
        )
        return Admm(training)

    def tuning(self, epochs: int) -> TrainConfig:
        """How the slim network is trained."""
        return TrainConfig(
            epochs=epochs,
            lr=self.lr,
            distill=self.distill,
            seed=self.seed,
            checkpoint_every_s=10.0,
            device=self.device,
        )
