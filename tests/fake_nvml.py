"""A fake pynvml: a simulated board, or one that replays a recording; and simulated time in which nothing sleeps."""

from dataclasses import dataclass, field
from types import SimpleNamespace

import numpy as np

VOLTA, TURING, AMPERE, ADA, HOPPER = 5, 6, 7, 8, 9


class FakeError(Exception):
    """What the library raises."""

    def __init__(self, value):
        super().__init__(f"code {value}")
        self.value = value


@dataclass
class SimulatedClock:
    """Time that passes only in ``wait``; what is repeated happens in between, each call at its time.

    Attributes:
        stall: Called with the time of each call, gives by how much it comes late, as where the interpreter is busy.
    """

    time: float = 1000.0
    stall: object = None
    _repeated: list = field(default_factory=list)

    def now(self):
        return self.time

    def wait(self, seconds):
        end = self.time + seconds
        while self._repeated:
            entry = min(self._repeated, key=lambda entry: entry[0])
            if entry[0] > end:
                break
            self.time = max(self.time, entry[0])
            entry[2]()
            late = self.stall(self.time) if self.stall else 0.0
            entry[0] = self.time + entry[1] + late
        self.time = max(self.time, end)

    def repeat(self, action, period_s):
        entry = [self.time + period_s, period_s, action]
        self._repeated.append(entry)
        return lambda: self._repeated.remove(entry)


class SimulatedBoard:
    """A board of known power.

    Args:
        watts: A number, or power as a function of an array of times.
        tick_s: Period of the energy counter.
        jitter: Its relative scatter.
        average_s, period_s: A power reading is the mean over the one, renewed after the other.
        gain: Of the counter, over the truth.
    """

    def __init__(self, watts=200.0, *, tick_s=0.1, jitter=0.02, average_s=0.1, period_s=0.1, gain=1.0, seed=0):
        self.rng = np.random.default_rng(seed)
        self.power = watts if callable(watts) else lambda times: np.full(np.shape(times), float(watts))
        self.tick_s, self.jitter, self.gain = tick_s, jitter, gain
        self.average_s, self.period_s = average_s, period_s
        self.phase = self.rng.random()
        self._ticks, self._joules = None, None
        self.resets_at = np.inf

    def joules(self, start, end):
        """The truth."""
        steps = max(2, round((end - start) / 1e-3))
        times = start + (np.arange(steps) + 0.5) * (end - start) / steps
        return float(np.mean(self.power(times)) * (end - start))

    def energy_j(self, now):
        if self._ticks is None:
            n = int(2000 / self.tick_s)
            gaps = self.tick_s * (1 + self.jitter * self.rng.standard_normal(n))
            self._ticks = now - self.tick_s * (1 + self.phase) + np.cumsum(gaps) - gaps[0]
            middles = (self._ticks[1:] + self._ticks[:-1]) / 2
            self._joules = 5000.0 + self.gain * np.concatenate(
                [[0.0], np.cumsum(self.power(middles) * np.diff(self._ticks))]
            )
        value = self._joules[np.searchsorted(self._ticks, now, side="right") - 1]
        return value if now < self.resets_at else 1.0 + value - self._joules[0]

    def watts(self, now):
        """What the power sensor shows."""
        sampled = (np.floor(now / self.period_s + self.phase) - self.phase) * self.period_s
        return float(np.mean(self.power(sampled - self.average_s * (np.arange(50) + 0.5) / 50)))

    def state(self, now):
        return {"energy_j": self.energy_j(now), "instant_w": self.watts(now), "usage_w": self.watts(now)}


class ReplayedBoard:
    """A board that tells what a recording holds.

    Args:
        recording: Of ``read_trace``.
        start: Simulated time of its first line.
    """

    def __init__(self, recording, start):
        self.recording, self.start = recording, start

    def state(self, now):
        return self.recording.at(now - self.start)


@dataclass
class FakeNvml:
    """The functions of pynvml that are used.

    Attributes:
        board: SimulatedBoard or ReplayedBoard.
        clock: SimulatedClock.
        errors: Name of a call, or number of a field, → the error that it answers with.
        zeros: Calls, or fields, that answer 0 every third time, as some boards do when they are asked often.
        mig: Whether the board is split.
        uint: Whether fields come as unsigned int, as with some drivers, or as unsigned long long.
    """

    board: object
    clock: SimulatedClock
    errors: dict = field(default_factory=dict)
    zeros: set = field(default_factory=set)
    mig: int = 0
    architecture: int = AMPERE
    capability: tuple = (8, 6)
    driver: str = "550.54.15"
    uint: bool = True
    throttle: dict = field(default_factory=lambda: {74: 0, 76: 0, 269: 0, 270: 0, 271: 0})
    reasons: int = 0
    clocks: tuple = (1500, 6000)
    temperature: float = 55.0
    pids: list = field(default_factory=list)
    handle: str = ""
    calls: int = 0
    NVMLError = FakeError

    def _call(self, name):
        self.calls += 1
        if name in self.errors:
            raise FakeError(self.errors[name])

    def _dropped(self, name):
        return name in self.zeros and self.calls % 3 == 0

    def nvmlInit(self):  # noqa: N802
        self._call("nvmlInit")

    def nvmlSystemGetDriverVersion(self):  # noqa: N802
        return self.driver

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        self.handle = f"board {index}"
        return self.handle

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        self._call("nvmlDeviceGetHandleByUUID")
        self.handle = f"board {uuid}"
        return self.handle

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return "Simulated 1000"

    def nvmlDeviceGetArchitecture(self, handle):  # noqa: N802
        return self.architecture

    def nvmlDeviceGetCudaComputeCapability(self, handle):  # noqa: N802
        return self.capability

    def nvmlDeviceGetPersistenceMode(self, handle):  # noqa: N802
        return 1

    def nvmlDeviceGetEccMode(self, handle):  # noqa: N802
        raise FakeError(3)

    def nvmlDeviceGetMigMode(self, handle):  # noqa: N802
        self._call("nvmlDeviceGetMigMode")
        return [self.mig, self.mig]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        self._call("nvmlDeviceGetTotalEnergyConsumption")
        state = self.board.state(self.clock.now())
        if "energy_j" not in state:
            raise FakeError(3)
        return 0 if self._dropped("nvmlDeviceGetTotalEnergyConsumption") else round(1e3 * state["energy_j"])

    def nvmlDeviceGetPowerUsage(self, handle):  # noqa: N802
        self._call("nvmlDeviceGetPowerUsage")
        state = self.board.state(self.clock.now())
        if "usage_w" not in state:
            raise FakeError(3)
        return 0 if self._dropped("nvmlDeviceGetPowerUsage") else round(1e3 * state["usage_w"])

    def nvmlDeviceGetFieldValues(self, handle, fields):  # noqa: N802
        self._call("nvmlDeviceGetFieldValues")
        return [self._field(number, scope) for number, scope in fields]

    def _field(self, number, scope):
        state = self.board.state(self.clock.now())
        found, name = None, number if scope == 0 else (number, scope)
        if name in self.errors:
            return SimpleNamespace(nvmlReturn=self.errors[name])
        if number == 186 and "instant_w" in state:
            found = 0 if self._dropped(186) else round(1e3 * state["instant_w"])
        elif number in self.throttle:
            found = self.throttle[number]
        if found is None:
            return SimpleNamespace(nvmlReturn=3)
        # members of a C union: what was written narrow has rubbish beside it, what was written wide is cut off
        value = SimpleNamespace(uiVal=found & 0xFFFFFFFF, ullVal=found + (7 << 32 if self.uint else 0))
        return SimpleNamespace(nvmlReturn=0, valueType=1 if self.uint else 3, value=value)

    def nvmlDeviceGetClockInfo(self, handle, kind):  # noqa: N802
        self._call("nvmlDeviceGetClockInfo")
        return self.clocks[kind - 1]

    def nvmlDeviceGetTemperature(self, handle, sensor):  # noqa: N802
        self._call("nvmlDeviceGetTemperature")
        return int(self.temperature)

    def nvmlDeviceGetEnforcedPowerLimit(self, handle):  # noqa: N802
        self._call("nvmlDeviceGetEnforcedPowerLimit")
        return 300_000

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):  # noqa: N802
        self._call("nvmlDeviceGetCurrentClocksThrottleReasons")
        return self.reasons

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        self._call("nvmlDeviceGetComputeRunningProcesses")
        return [SimpleNamespace(pid=pid) for pid in self.pids]
