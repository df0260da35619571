"""One NVIDIA board, asked through NVML: the only file that imports pynvml.

Every figure is SI; what NVML answers with an error becomes one sentence with the mend.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from typing import Any, TypeVar

import torch

from ecc.core.errors import MeterError

__all__ = ["Board", "Unsupported", "told", "uncounted", "words_of"]

_POWER_INSTANT = 186  # field value; nvmlDeviceGetPowerUsage is a mean over 1 s on Ampere (not GA100) and newer
_GPU_SCOPE, _MODULE_SCOPE = 0, 1  # a Grace Hopper module may tell its own power only
_VALUES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")  # by NVML_VALUE_TYPE; differs by driver
_CLOCK_SM, _CLOCK_MEMORY, _TEMPERATURE_GPU = 1, 2, 0

_THROTTLE_COUNTERS: Mapping[int, str] = {
    74: "power-cap",
    76: "sync-boost",
    269: "thermal",  # by software
    270: "thermal",  # by hardware
    271: "power-brake",
}
_THROTTLE_BITS: Mapping[int, str] = {
    0x04: "power-cap",
    0x08: "hardware-slowdown",
    0x10: "sync-boost",
    0x20: "thermal",
    0x40: "thermal",
    0x80: "power-brake",
}

_GONE = "then repeat the command: finished rows are kept"
_MENDS: Mapping[int, str] = {  # by NVML's error number
    1: f"the driver was unloaded meanwhile; load it again, {_GONE}",
    3: "this board does not tell it; measure latency instead",
    4: "reading it is not allowed here; ask the administrator for access to the GPU's counters, or run as root",
    6: "NVML does not see this board (a slice of a split GPU, or hidden from this container); measure latency instead",
    9: "the NVIDIA driver is not loaded; load it",
    12: "the NVIDIA driver is not installed, or hidden from this container; install it",
    13: "the NVIDIA driver is too old; update it",
    15: f"the GPU is lost (off the bus or out of power); reset it or restart the machine, {_GONE}",
    16: f"the GPU has to be reset; run `nvidia-smi --gpu-reset` or restart the machine, {_GONE}",
    18: "the NVIDIA driver was updated but not loaded again; restart the machine",
    999: f"the NVIDIA driver no longer answers; reload it or restart the machine, {_GONE}",
}
_NOT_SUPPORTED, _NOT_FOUND_FUNCTION = 3, 13

T = TypeVar("T")


class Unsupported(MeterError):
    """The board or its driver does not know the question; some answer so when they are polled fast."""


class Board:
    """One board.

    Every method raises MeterError when NVML does not answer, Unsupported when this board does not know the question.

    Args:
        library: The pynvml module, or what stands in for it.
        handle: NVML's handle of the board.
    """

    def __init__(self, library: Any, handle: Any) -> None:
        self._library, self._handle = library, handle

    @classmethod
    def open(cls, index: int = 0, *, uuid: str = "", library: Any = None) -> Board:
        """The board of that id as NVML writes it (``GPU-…``), or else of NVML's index.

        Raises:
            MeterError: If NVML is not installed, does not start or does not see the board.
        """
        found = library or _import()
        with _translated(found, "nvmlInit"):
            found.nvmlInit()
        with _translated(found, "looking for the board"):
            handle = found.nvmlDeviceGetHandleByUUID(uuid) if uuid else found.nvmlDeviceGetHandleByIndex(index)
        return cls(found, handle)

    @classmethod
    def of(cls, device: str, *, library: Any = None) -> Board:
        """The board of a torch CUDA device, whatever CUDA_VISIBLE_DEVICES hides."""
        index = torch.device(device).index
        place = torch.cuda.current_device() if index is None else index
        uuid = str(getattr(torch.cuda.get_device_properties(place), "uuid", ""))
        return cls.open(place, uuid=uuid if not uuid or uuid.startswith("GPU-") else f"GPU-{uuid}", library=library)

    def energy_j(self) -> float:
        """Joules since the driver was loaded; ticks every 20–500 ms."""
        return float(self._ask("nvmlDeviceGetTotalEnergyConsumption")) * 1e-3

    def instant_w(self) -> float:
        """Power by the field that is not averaged over a second."""
        return self._field(_POWER_INSTANT, _GPU_SCOPE) * 1e-3

    def module_w(self) -> float:
        """The same of the whole module, CPU included, on boards that are part of one."""
        return self._field(_POWER_INSTANT, _MODULE_SCOPE) * 1e-3

    def usage_w(self) -> float:
        """Power by the old call; over which time it is averaged depends on the generation and the driver."""
        return float(self._ask("nvmlDeviceGetPowerUsage")) * 1e-3

    def clock_hz(self) -> float:
        """Clock of the multiprocessors."""
        return float(self._ask("nvmlDeviceGetClockInfo", _CLOCK_SM)) * 1e6

    def memory_clock_hz(self) -> float:
        """Clock of the memory."""
        return float(self._ask("nvmlDeviceGetClockInfo", _CLOCK_MEMORY)) * 1e6

    def temperature_c(self) -> float:
        """Temperature of the chip."""
        return float(self._ask("nvmlDeviceGetTemperature", _TEMPERATURE_GPU))

    def power_limit_w(self) -> float:
        """The cap that holds now."""
        return float(self._ask("nvmlDeviceGetEnforcedPowerLimit")) * 1e-3

    def throttle_counters(self) -> dict[int, float]:
        """Field number → how long clocks were held down for that reason so far; fields that are told only."""
        counters = {number: told(lambda number=number: self._field(number)) for number in _THROTTLE_COUNTERS}  # type: ignore[misc]
        return {number: value for number, value in counters.items() if value is not None}

    def throttle_reasons(self) -> set[str]:
        """Words of the reasons for which clocks are held down at this instant."""
        bits = int(self._ask("nvmlDeviceGetCurrentClocksThrottleReasons"))
        return {word for bit, word in _THROTTLE_BITS.items() if bits & bit}

    def compute_pids(self) -> list[int]:
        """Processes that compute on the board, as numbered on the host."""
        return [int(process.pid) for process in self._ask("nvmlDeviceGetComputeRunningProcesses")]

    def is_split(self) -> bool:
        """Whether MIG shares the board out, so that its sensors belong to nobody."""
        mode = told(lambda: self._ask("nvmlDeviceGetMigMode")[0])
        return bool(mode)  # boards that cannot be split do not know the question

    def generation(self) -> tuple[int, tuple[int, int], int]:
        """NVML's number of the architecture (Volta 5, Turing 6 …), compute capability, major version of the driver.

        Zeros where it is not told.
        """
        major = told(lambda: int(str(self._ask_system("nvmlSystemGetDriverVersion")).split(".")[0]))
        capability = told(lambda: tuple(self._ask("nvmlDeviceGetCudaComputeCapability")))
        return told(lambda: int(self._ask("nvmlDeviceGetArchitecture"))) or 0, capability or (0, 0), major or 0

    def facts(self) -> dict[str, Any]:
        """What a measurement may depend on, by name; what is told only."""
        questions: Mapping[str, Callable[[], Any]] = {
            "board": lambda: str(self._ask("nvmlDeviceGetName")),
            "driver": lambda: str(self._ask_system("nvmlSystemGetDriverVersion")),
            "power_limit_w": self.power_limit_w,
            "persistence": lambda: bool(self._ask("nvmlDeviceGetPersistenceMode")),
            "ecc": lambda: bool(self._ask("nvmlDeviceGetEccMode")[0]),
        }
        answers = {name: told(question) for name, question in questions.items()}
        return {name: answer for name, answer in answers.items() if answer is not None}

    def _ask(self, call: str, *arguments: Any) -> Any:
        with _translated(self._library, call):
            return getattr(self._library, call)(self._handle, *arguments)

    def _ask_system(self, call: str) -> Any:
        with _translated(self._library, call):
            return getattr(self._library, call)()

    def _field(self, number: int, scope: int = _GPU_SCOPE) -> float:
        with _translated(self._library, f"nvmlDeviceGetFieldValues({number})"):
            found = self._library.nvmlDeviceGetFieldValues(self._handle, [(number, scope)])[0]
            if found.nvmlReturn != 0:
                raise self._library.NVMLError(found.nvmlReturn)
        return float(getattr(found.value, _VALUES[found.valueType]))


def told(question: Callable[[], T]) -> T | None:
    """The answer, or None where the board does not give it."""
    try:
        return question()
    except (MeterError, ValueError):
        return None


def words_of(numbers: Collection[int]) -> set[str]:
    """The reasons that throttle counters of those field numbers count."""
    return {_THROTTLE_COUNTERS[number] for number in numbers}


def uncounted(numbers: Collection[int]) -> set[str]:
    """The reasons that are not, or not all, counted where a board tells the counters of those field numbers only."""
    missing = {word for number, word in _THROTTLE_COUNTERS.items() if number not in numbers}
    return missing | (set(_THROTTLE_BITS.values()) - set(_THROTTLE_COUNTERS.values()))


@contextmanager
def _translated(library: Any, call: str) -> Iterator[None]:
    """NVML's errors in our words."""
    try:
        yield
    except library.NVMLError as error:
        number = int(getattr(error, "value", 0))
        kind = Unsupported if number in (_NOT_SUPPORTED, _NOT_FOUND_FUNCTION) else MeterError
        raise kind(f"NVML failed at {call} ({error}): {_MENDS.get(number, 'measure latency instead')}") from error
    except AttributeError as error:
        raise Unsupported(
            f"the pynvml module here has no {call}: update it with `pip install -U nvidia-ml-py`"
        ) from error


def _import() -> Any:
    try:
        import pynvml
    except ImportError:
        raise MeterError(
            "GPU energy needs nvidia-ml-py, which is not installed; run `pip install ecc-compress[gpu]`"
        ) from None
    if not hasattr(pynvml, "nvmlDeviceGetFieldValues") or not hasattr(pynvml, "_nvmlGetFunctionPointer"):
        raise MeterError(
            f"the module pynvml here is that of the unofficial package pynvml{_version('pynvml')}, not NVIDIA's; run "
            "`pip uninstall pynvml` and `pip install --force-reinstall nvidia-ml-py`"
        )
    return pynvml


def _version(distribution: str) -> str:
    try:
        return f" {metadata.version(distribution)}"
    except metadata.PackageNotFoundError:
        return ""
