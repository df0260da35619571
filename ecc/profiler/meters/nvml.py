"""GPU energy by NVML: the only file that imports pynvml.

The board's energy counter ticks slowly (20–500 ms, by device), so end minus start is wrong by up to a tick at each end.
The counter is polled instead, the instants at which it changes are kept, and the slope through them times the window is
the energy: at 100 ms ticks and 2 s windows the error falls from 1.2 % to 0.06 % rms. Boards without a counter integrate
sampled power.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy.integrate import trapezoid

from ecc.core.errors import MeterError
from ecc.core.meter import Probe, Reading

__all__ = ["NvmlMeter", "Trace", "integrate", "slope"]

_POWER_INSTANT = 186  # field value id; nvmlDeviceGetPowerUsage is a 1 s average on Ampere (not GA100) and newer
_POLL_S = 0.005
_WINDOW_S = 2.0
_AVERAGE_WINDOW_S, _AVERAGE_RISE_S = 5.0, 1.5
_TICKS = 20  # per window
_FEWEST_TICKS = 5  # below that the plain delta is used, and labelled
_CALIBRATION_S = 15.0


@dataclass(slots=True)
class Trace:
    """Readings of a sensor over time.

    Attributes:
        times: Monotonic seconds.
        values: What was read then, same length.
    """

    times: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def poll(
        self,
        read: Callable[[], float],
        go_on: Callable[[], bool],
        *,
        changes: bool,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Read every 5 ms while ``go_on()``; keep the first reading and then all, or the changes only.

        Raises:
            MeterError: If a counter of which the changes are kept goes back.
        """
        while go_on():
            value, now = read(), clock()
            if changes and self.values and value < self.values[-1]:
                raise MeterError("the NVML energy counter was reset (driver reloaded?); measure again")
            if not changes or not self.values or value != self.values[-1]:
                self.times.append(now)
                self.values.append(value)
            sleep(_POLL_S)


def slope(times: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Least-squares slope of values over times, and its standard error (0 for two points)."""
    t, v = np.asarray(times, dtype=np.float64), np.asarray(values, dtype=np.float64)
    t, v = t - t.mean(), v - v.mean()
    spread = float(t @ t)
    rate = float(t @ v) / spread
    residual = v - rate * t
    freedom = max(1, len(t) - 2)
    return rate, float(np.sqrt(residual @ residual / freedom / spread))


def integrate(times: Sequence[float], watts: Sequence[float], start: float, end: float) -> float:
    """Joules from start to end by the trapezoid rule; power is constant outside the samples."""
    inside = [t for t in times if start < t < end]
    knots = np.array([start, *inside, end])
    return float(trapezoid(np.interp(knots, times, watts), knots))


@dataclass(frozen=True, slots=True)
class _Sensor:
    """What is read: the counter (J), or power (W) by which call."""

    source: str
    read: Callable[[], float]
    counts: bool
    window_s: float = _WINDOW_S
    rise_s: float = 0.0


class NvmlMeter:
    """Joules of one NVIDIA board.

    Attributes:
        metric: ``energy``.

    Args:
        index: NVML's index of the board, used when no uuid is given.
        uuid: The board's id as NVML writes it (``GPU-…``).
        library: Stands in for the pynvml module.
        synchronise: Waits until the board has finished its work.
    """

    metric = "energy"

    def __init__(
        self, index: int = 0, *, uuid: str = "", library: Any = None, synchronise: Callable[[], None] | None = None
    ) -> None:
        self._index, self._uuid, self._library = index, uuid, library
        self._synchronise = synchronise or (lambda: None)
        self._sensor: _Sensor | None = None
        self._tick_s: float | None = None
        self._poller: _Poller | None = None
        self._start = 0.0

    @classmethod
    def of(cls, device: str) -> NvmlMeter:
        """The board of a torch CUDA device, whatever CUDA_VISIBLE_DEVICES hides."""
        index = torch.device(device).index or 0
        uuid = str(getattr(torch.cuda.get_device_properties(index), "uuid", ""))
        return cls(
            index,
            uuid=uuid if not uuid or uuid.startswith("GPU-") else f"GPU-{uuid}",
            synchronise=lambda: torch.cuda.synchronize(device),
        )

    def probe(self) -> Probe:
        """Call the counter, or else the power sensor, once."""
        try:
            return Probe(True, self._opened().source)
        except MeterError as error:
            return Probe(False, reason=str(error))

    @property
    def shortest_window_s(self) -> float:
        """Two seconds or 20 ticks of the counter; its period is measured at the first call."""
        sensor = self._opened()
        if not sensor.counts:
            return sensor.window_s
        if self._tick_s is None:
            self._tick_s = _tick_s(sensor)
        return max(sensor.window_s, _TICKS * self._tick_s)

    def begin(self) -> None:
        """Wait for the board and start polling."""
        sensor = self._opened()
        self._synchronise()
        self._poller = _Poller(sensor)
        self._start = time.monotonic()

    def end(self) -> Reading:
        """Joules since ``begin``; flagged ``delta`` when too few ticks fell into the window, ``power`` if integrated.

        Raises:
            MeterError: If the sensor stopped answering, was reset or does not move.
        """
        if self._poller is None:
            raise MeterError("NvmlMeter.end() was called without begin()")
        self._synchronise()
        end = time.monotonic()
        poller, self._poller = self._poller, None
        trace = poller.stop()
        return _reading(self._opened(), trace, self._start, end)

    def _opened(self) -> _Sensor:
        if self._sensor is None:
            library = self._library or _import()
            with _nvml(library, "nvmlInit"):
                library.nvmlInit()
            self._sensor = _find_sensor(library, self._handle(library))
        return self._sensor

    def _handle(self, library: Any) -> Any:
        with _nvml(library, "looking for the board"):
            if self._uuid:
                return library.nvmlDeviceGetHandleByUUID(self._uuid)
            return library.nvmlDeviceGetHandleByIndex(self._index)


class _Poller:
    """Polls a sensor in a thread of its own."""

    def __init__(self, sensor: _Sensor) -> None:
        self._trace = Trace()
        self._stopped = threading.Event()
        self._error: MeterError | None = None
        self._thread = threading.Thread(target=self._run, args=(sensor,), name="ecc-nvml", daemon=True)
        self._thread.start()

    def _run(self, sensor: _Sensor) -> None:
        try:
            go_on = lambda: not self._stopped.is_set()  # noqa: E731
            self._trace.poll(sensor.read, go_on, changes=sensor.counts, sleep=self._stopped.wait)
        except MeterError as error:
            self._error = error

    def stop(self) -> Trace:
        self._stopped.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._trace


def _reading(sensor: _Sensor, trace: Trace, start: float, end: float) -> Reading:
    """What a trace says about the window."""
    if not trace.times:
        raise MeterError(f"{sensor.source} gave no reading within {end - start:.3f} s; measure a longer window")
    if not sensor.counts:
        rise = min(sensor.rise_s, (end - start) / 2)
        watts = integrate(trace.times, trace.values, start + rise, end) / (end - start - rise)
        joules, flag = watts * (end - start), "power"
    else:
        ticks = [(t, value) for t, value in zip(trace.times[1:], trace.values[1:], strict=True) if start <= t <= end]
        if len(ticks) >= _FEWEST_TICKS:
            rate, _ = slope([t for t, _ in ticks], [value for _, value in ticks])
            joules, flag = rate * (end - start), ""
        else:
            joules, flag = trace.values[-1] - trace.values[0], "delta"
    if joules <= 0:
        raise MeterError(f"{sensor.source} does not move; measure latency instead")
    return Reading(joules, flag)


def _tick_s(sensor: _Sensor) -> float:
    """Median period of the counter over 20 ticks, or as many as come within 15 s."""
    trace, deadline = Trace(), time.monotonic() + _CALIBRATION_S
    trace.poll(sensor.read, lambda: len(trace.times) < _TICKS + 2 and time.monotonic() < deadline, changes=True)
    if len(trace.times) < 3:
        raise MeterError(f"{sensor.source} does not move within {_CALIBRATION_S:.0f} s; measure latency instead")
    return float(np.median(np.diff(trace.times[1:])))


def _import() -> Any:
    try:
        import pynvml
    except ImportError:
        raise MeterError(
            "GPU energy needs nvidia-ml-py, which is not installed; run `pip install ecc-compress[gpu]`"
        ) from None
    return pynvml


@contextmanager
def _nvml(library: Any, call: str) -> Iterator[None]:
    """NVML's errors in our words."""
    try:
        yield
    except library.NVMLError as error:
        mend = {
            getattr(library, "NVML_ERROR_LIBRARY_NOT_FOUND", 12): "install the NVIDIA driver",
            getattr(library, "NVML_ERROR_DRIVER_NOT_LOADED", 9): "load the NVIDIA driver",
            getattr(library, "NVML_ERROR_NO_PERMISSION", 4): "ask the administrator to allow reading the sensor",
            getattr(library, "NVML_ERROR_NOT_SUPPORTED", 3): "this board cannot, measure latency instead",
        }.get(getattr(error, "value", None), "measure latency instead")
        raise MeterError(f"NVML failed at {call} ({error}); {mend}") from error


def _find_sensor(library: Any, handle: Any) -> _Sensor:
    """The best sensor that answers, tried by calling it.

    Raises:
        MeterError: If none does, or the board is split by MIG, where its energy belongs to nobody.
    """
    try:
        split = library.nvmlDeviceGetMigMode(handle)[0] == 1
    except library.NVMLError:  # boards that cannot be split do not know the question
        split = False
    if split:
        raise MeterError(
            "the GPU is split by MIG, so its energy counter covers other users too; measure latency instead"
        )

    def counter() -> float:
        with _nvml(library, "nvmlDeviceGetTotalEnergyConsumption"):
            return float(library.nvmlDeviceGetTotalEnergyConsumption(handle)) * 1e-3

    def instant() -> float:
        with _nvml(library, "nvmlDeviceGetFieldValues"):
            found = library.nvmlDeviceGetFieldValues(handle, [_POWER_INSTANT])[0]
            if found.nvmlReturn != 0 or found.value.uiVal == 0:
                raise MeterError("NVML has no instant power on this board; measure latency instead")
            return float(found.value.uiVal) * 1e-3

    def average() -> float:
        with _nvml(library, "nvmlDeviceGetPowerUsage"):
            return float(library.nvmlDeviceGetPowerUsage(handle)) * 1e-3

    reasons = []
    for sensor in (
        _Sensor("NVML energy counter", counter, counts=True),
        _Sensor("NVML instant power, integrated", instant, counts=False),
        _Sensor(
            "NVML average power, integrated", average, counts=False, window_s=_AVERAGE_WINDOW_S, rise_s=_AVERAGE_RISE_S
        ),
    ):
        try:
            if sensor.read() > 0:
                return sensor
            reasons.append(f"{sensor.source} reads 0")
        except MeterError as error:
            reasons.append(str(error))
    raise MeterError(reasons[-1])
