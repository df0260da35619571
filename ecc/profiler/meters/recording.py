"""Recordings of an NVIDIA board's sensors as JSON lines, so that estimators can be judged where no board is.

The first line says whose recording it is, each further one the time since its start (``t``, s) and what changed then:
``energy_j``, ``instant_w``, ``usage_w``, ``clock_hz``, ``memory_clock_hz``, ``temperature_c``, ``throttle`` (field
number → counter). What a board does not tell is not there.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecc.core.errors import InputError
from ecc.profiler.clock import Clock, HostClock
from ecc.profiler.meters.board import Board, told

__all__ = ["Recording", "read_trace", "record_trace"]

_FORMAT = 1
_POLL_S = 0.005
_SLOW_POLLS = 20  # clocks, temperature and counters of throttling: every 0.1 s


@dataclass(frozen=True, slots=True)
class Recording:
    """What a board told over time.

    Attributes:
        facts: Of the board, and ``poll_s``.
        times: Seconds since the start, increasing.
        states: What was known then, same length.
    """

    facts: Mapping[str, Any]
    times: tuple[float, ...]
    states: tuple[Mapping[str, Any], ...]

    def at(self, time: float) -> Mapping[str, Any]:
        """The newest state at a time; the first before all."""
        return self.states[max(0, bisect_right(self.times, time) - 1)]


def record_trace(
    device: str, seconds: float, path: str | Path, *, board: Board | None = None, clock: Clock | None = None
) -> int:
    """Record the sensors of a torch CUDA device; what it does meanwhile is the caller's.

    Args:
        board: Instead of the device's.
    Returns:
        Lines written.
    Raises:
        InputError: If the file cannot be written.
        MeterError: If there is no such board.
    """
    time, asked = clock or HostClock(), board or Board.of(device)
    start, polls, lines = time.now(), 0, 1
    known: dict[str, Any] = {}
    try:
        with Path(path).open("w") as file:
            file.write(json.dumps({"nvml_trace": _FORMAT, "poll_s": _POLL_S, **asked.facts()}) + "\n")
            while (now := time.now() - start) <= seconds:
                found = _asked(asked, slow=polls % _SLOW_POLLS == 0)
                changed = {name: value for name, value in found.items() if known.get(name) != value}
                if changed:
                    file.write(json.dumps({"t": round(now, 6), **changed}) + "\n")
                    lines += 1
                known |= changed
                polls += 1
                time.wait(_POLL_S)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}; give another path") from error
    return lines


def read_trace(path: str | Path) -> Recording:
    """Read a recording.

    Raises:
        InputError: If it is none.
    """
    try:
        lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
        facts = dict(lines[0])
        if facts.pop("nvml_trace") != _FORMAT:
            raise ValueError("another format")
        times = tuple(float(line["t"]) for line in lines[1:])
        states: list[Mapping[str, Any]] = []
        for line in lines[1:]:
            states.append({**(states[-1] if states else {}), **{name: line[name] for name in line if name != "t"}})
        if not states or list(times) != sorted(times):
            raise ValueError("no line, or not in order of time")
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}; give another path") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise InputError(f"{str(path)!r} is not a recording of NVML ({error}); record it again") from error
    return Recording(facts, times, tuple(states))


def _asked(board: Board, *, slow: bool) -> dict[str, Any]:
    questions: dict[str, Callable[[], Any]] = {
        "energy_j": board.energy_j,
        "instant_w": board.instant_w,
        "usage_w": board.usage_w,
    }
    if slow:
        questions |= {
            "clock_hz": board.clock_hz,
            "memory_clock_hz": board.memory_clock_hz,
            "temperature_c": board.temperature_c,
            "throttle": lambda: {str(number): value for number, value in board.throttle_counters().items()},
        }
    answers = {name: told(question) for name, question in questions.items()}
    return {name: answer for name, answer in answers.items() if answer is not None}
