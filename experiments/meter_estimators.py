"""How wrong joules are that come of a counter that ticks, or of a sensor that looks part of the time only.

    python experiments/meter_estimators.py

Simulated time, no device: a load of known power, a counter of 20, 100 or 500 ms ticks (2 % jitter) that is polled every
5 ms, evenly or as a busy interpreter does it, and power sensors of 25 in 100 ms. The estimators are those that ecc
measures with. Writes experiments/measurements/meter_estimators.csv and meter_part_time.csv.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ecc.profiler.meters.estimators import Sampling, counted, integrated, slope
from ecc.profiler.meters.polling import Samples, Ticks

MEASUREMENTS = Path(__file__).resolve().parent / "measurements"
WATTS, JITTER, POLL_S, WINDOWS = 300.0, 0.02, 0.005, 2000
CASES = ((0.02, 1.0), (0.1, 1.0), (0.1, 2.0), (0.1, 5.0), (0.5, 2.0), (0.5, 5.0), (0.5, 10.0))
Floats = NDArray[np.float64]


def even(window_s: float, rng: np.random.Generator) -> Floats:
    """Polls every 5 ms."""
    return np.arange(rng.random() * POLL_S, window_s, POLL_S)


def busy(window_s: float, rng: np.random.Generator) -> Floats:
    """Polls where the interpreter is busy: mostly 5 ms apart, every tenth gap 10 to 60 ms."""
    n = int(window_s / POLL_S)
    gaps = np.where(rng.random(n) < 0.1, 0.01 + 0.05 * rng.random(n), POLL_S * (1 + 0.2 * rng.random(n)))
    polls = np.cumsum(gaps)
    return polls[polls < window_s]


def counter(tick_s: float, polls: Floats, rng: np.random.Generator) -> Floats:
    """What the counter shows at the polls: joules of the last tick."""
    n = int(polls[-1] / tick_s) + 8
    ticks = np.cumsum(tick_s * (1 + JITTER * rng.standard_normal(n))) - 3 * tick_s - tick_s * rng.random()
    return WATTS * (3 * tick_s + ticks[np.searchsorted(ticks, polls, side="right") - 1])


def watched(polls: Floats, joules: Floats) -> Ticks:
    """The changes as ecc keeps them; polls between two changes tell nothing more."""
    ticks = Ticks()
    changed = np.flatnonzero(np.diff(joules) > 0) + 1
    for index in np.unique(np.concatenate([[0], changed - 1, changed, [len(polls) - 1]])):
        ticks.add(float(polls[index]), float(joules[index]))
    return ticks


def judge(tick_s: float, window_s: float, poll: Callable[[float, np.random.Generator], Floats]) -> dict[str, object]:
    """Errors over many windows, in percent."""
    rng = np.random.default_rng([round(1e3 * tick_s), round(window_s), poll is busy])
    found = np.empty((WINDOWS, 5))
    for window in range(WINDOWS):
        polls = poll(window_s, rng)
        joules = counter(tick_s, polls, rng)
        ticks = watched(polls, joules)
        energy = counted(ticks, 0.0, window_s, tick_s)
        late, _ = slope(ticks.times, ticks.values) if len(ticks.times) > 1 else (np.nan, np.nan)
        span = ticks.times[-1] - ticks.times[0]
        found[window] = (
            ticks.delta / window_s,
            (ticks.values[-1] - ticks.values[0]) / span if span > 0 else np.nan,
            energy.joules / window_s,
            late,
            1.96 * (energy.error or np.nan) / window_s,
        )
    errors = 100 * (found[:, :4] / WATTS - 1)
    rms, worst = np.sqrt(np.nanmean(errors**2, axis=0)), np.nanmax(np.abs(errors), axis=0)
    names = ("delta", "first_to_last", "slope", "slope_unweighted")
    return {
        **{"tick_s": tick_s, "window_s": window_s, "polling": poll.__name__, "windows": WINDOWS},
        "estimate": "slope" if energy.by_slope else "delta",
        **{f"{name}_rms_pct": round(value, 3) for name, value in zip(names, rms, strict=True)},
        **{f"{name}_worst_pct": round(value, 3) for name, value in zip(names, worst, strict=True)},
        "covered_by_two_errors_pct": round(100 * float(np.mean(np.abs(found[:, 2] - WATTS) <= found[:, 4])), 1),
    }


def part_time(period_s: float, rng: np.random.Generator) -> dict[str, object]:
    """A load that switches between 300 and 100 W, seen 25 ms of every 100, over 5 s."""
    sampling, misses = Sampling(0.025, 0.1), []
    for _ in range(400):
        phase, look = rng.random(2) * (period_s, sampling.period_s)
        polls = np.arange(0.0, 5.0, sampling.period_s / 2)
        sampled = np.floor((polls - look) / sampling.period_s) * sampling.period_s + look
        inside = sampled[:, None] - sampling.average_s * (np.arange(50) + 0.5) / 50
        watts = np.where((inside + phase) % period_s < period_s / 2, 300.0, 100.0).mean(1)
        energy = integrated(Samples(polls.tolist(), watts.tolist()), 0.0, 5.0, sampling)
        misses.append(100 * ((energy.joules if energy else np.nan) / (5 * 200.0) - 1))
    rms, worst = np.sqrt(np.mean(np.square(misses))), np.max(np.abs(misses))
    return {"period_s": period_s, "rms_pct": round(float(rms), 2), "worst_pct": round(float(worst), 2)}


def main() -> None:
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    origin = {
        "commit": commit.stdout.strip(),
        "environment": f"python {platform.python_version()} numpy {np.__version__}",
    }
    ticking = pd.DataFrame([judge(*case, poll) | origin for poll in (even, busy) for case in CASES])
    rng = np.random.default_rng(0)
    aliasing = pd.DataFrame([part_time(p, rng) | origin for p in (0.005, 0.013, 0.04, 0.05, 0.1, 0.2)])
    ticking.to_csv(MEASUREMENTS / "meter_estimators.csv", index=False)
    aliasing.to_csv(MEASUREMENTS / "meter_part_time.csv", index=False)
    print(ticking.drop(columns=list(origin)).to_string(index=False))
    print(aliasing.drop(columns=list(origin)).to_string(index=False))


if __name__ == "__main__":
    main()
