"""The energy sensors of an NVIDIA board: which answer, and how each is to be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ecc.core.errors import MeterError
from ecc.profiler.meters.board import Board
from ecc.profiler.meters.estimators import Sampling

__all__ = ["Counter", "Power", "find_counter", "find_power", "instant_sampling", "usage_sampling"]

_PASCAL, _VOLTA, _TURING, _AMPERE, _ADA, _HOPPER = 4, 5, 6, 7, 8, 9
_GA100 = (8, 0)  # compute capability; the other Ampere chips are 8.6 and 8.7
_OVER_A_SECOND = Sampling(1.0, 0.1)
_EVERY_100_MS = Sampling(0.1, 0.1)
_PART_TIME = Sampling(0.025, 0.1)
_EVERY_20_MS = Sampling(0.01, 0.02)
_TRIES = 3  # some boards answer 0 now and then
_EXCEPTIONAL_DRIVER = 530  # of this branch alone the old call is not averaged over a second


@dataclass(frozen=True, slots=True)
class Counter:
    """The board's energy counter.

    Attributes:
        read: Joules since the driver was loaded.
        source: For people.
        scope: ``gpu``.
    """

    read: Callable[[], float]
    source: str = "NVML energy counter"
    scope: str = "gpu"


@dataclass(frozen=True, slots=True)
class Power:
    """A power sensor.

    Attributes:
        read: Watts.
        source: For people.
        sampling: How it sees a load.
        scope: ``gpu``, or ``module`` where it includes the CPU beside it.
    """

    read: Callable[[], float]
    source: str
    sampling: Sampling
    scope: str = "gpu"

    @property
    def averaged(self) -> bool:
        """Whether readings are means over so long that they lag behind a window."""
        return self.sampling.average_s >= 1.0


def instant_sampling(architecture: int, capability: tuple[int, int]) -> Sampling:
    """How the instant power is sampled on a generation (measured by Yang, Adamek and Armour, arXiv 2312.02741)."""
    if architecture == _HOPPER or capability == _GA100:
        return _PART_TIME
    return _EVERY_20_MS if architecture in (_PASCAL, _VOLTA) else _EVERY_100_MS


def usage_sampling(architecture: int, capability: tuple[int, int], driver: int) -> Sampling:
    """How ``nvmlDeviceGetPowerUsage`` is sampled; a mean over a second where it is not known."""
    if capability == _GA100:
        return _PART_TIME
    if architecture == _TURING or (architecture in (_AMPERE, _ADA) and driver == _EXCEPTIONAL_DRIVER):
        return _EVERY_100_MS
    return _EVERY_20_MS if architecture in (_PASCAL, _VOLTA) else _OVER_A_SECOND


def find_counter(board: Board) -> Counter:
    """The counter, read once.

    Raises:
        MeterError: If it does not answer.
    """
    _demand_whole(board)
    counter = Counter(board.energy_j)
    _demand_positive(counter)
    return counter


def find_power(board: Board) -> Power:
    """The power sensor that lags least, each read once.

    Raises:
        MeterError: If none answers; in the words of the first.
    """
    _demand_whole(board)
    architecture, capability, driver = board.generation()
    instant, usage = instant_sampling(architecture, capability), usage_sampling(architecture, capability, driver)
    averaged = "averaged over 1 s" if usage.average_s >= 1 else "sampled"
    problems = []
    for power in (
        Power(board.instant_w, "NVML instant power, integrated", instant),
        Power(board.usage_w, f"NVML power ({averaged}), integrated", usage),
        Power(board.module_w, "NVML instant power of the module (GPU and CPU), integrated", instant, scope="module"),
    ):
        try:
            _demand_positive(power)
        except MeterError as error:
            problems.append(error)
        else:
            return power
    raise problems[0]


def _demand_whole(board: Board) -> None:
    if board.is_split():
        raise MeterError(
            "the GPU is split by MIG, so its energy counter covers other users too; measure latency instead"
        )


def _demand_positive(sensor: Counter | Power) -> None:
    if not any(sensor.read() > 0 for _ in range(_TRIES)):
        raise MeterError(f"{sensor.source} reads 0, so it does not work on this board; measure latency instead")
