"""Devices: what is here, how it is told apart from others, and what can be measured on it."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ecc.core.errors import InputError, UnavailableError
from ecc.core.meter import Probe
from ecc.profiler.cores import boost_state, smt_state
from ecc.profiler.meters import METRICS, checked, meter_for

__all__ = ["Device", "current_device", "list_devices"]


_VECTOR_FLOATS: Mapping[str, int] = {"AVX512": 16, "AVX2": 8}


@dataclass(frozen=True, slots=True)
class Device:
    """Something that networks are run on.

    Attributes:
        name: For people.
        kind: ``cpu`` or ``cuda``.
        torch_name: Torch device string.
        settings: What identifies the device and what its speed depends on.
    """

    name: str
    kind: str
    torch_name: str
    settings: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        """Hash of the settings; equal on one machine from day to day."""
        return hashlib.sha256(json.dumps(dict(self.settings), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def channel_step(self) -> int:
        """Channels that its kernels take at a time: floats of a vector register, or the alignment of tensor cores."""
        if self.kind == "cuda":
            return 8
        return _VECTOR_FLOATS.get(torch.backends.cpu.get_cpu_capability(), 4)

    def meters(self, *, check: bool = False) -> dict[str, Probe]:
        """What can be measured on it, found out by trying.

        Args:
            check: Do the slow checks of the sensors too; half a minute for a GPU, which they keep busy.
        """
        meters = {metric: meter_for(metric, self.torch_name) for metric in METRICS}
        if check:
            return {metric: checked(meter, self.torch_name) for metric, meter in meters.items()}
        return {metric: meter.probe() for metric, meter in meters.items()}

    def to_json(self, *, check: bool = False) -> dict[str, Any]:
        """One entry of ``ecc devices --json``; ``check`` as for ``meters``."""
        return {
            "name": self.name,
            "kind": self.kind,
            "torch_name": self.torch_name,
            "fingerprint": self.fingerprint,
            "channel_step": self.channel_step,
            "settings": dict(self.settings),
            "meters": {metric: probe.to_json() for metric, probe in self.meters(check=check).items()},
        }


def list_devices() -> list[Device]:
    """The CPU and every CUDA device that PyTorch sees."""
    return [_cpu(), *(_cuda(index) for index in range(torch.cuda.device_count()))]


def current_device(name: str = "cpu") -> Device:
    """The device of a torch device string.

    Raises:
        InputError: If the name is none.
        UnavailableError: If it is not here.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r} is unknown; choose cpu or cuda") from None
    if device.type == "cpu":
        return _cpu()
    if device.type != "cuda":
        raise InputError(f"device {name!r} cannot be measured; choose cpu or cuda")
    if not torch.cuda.is_available():
        raise UnavailableError("no CUDA device is visible to PyTorch here; measure with --device cpu")
    index = torch.cuda.current_device() if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise UnavailableError(f"device {name!r} is not here; there are {torch.cuda.device_count()} CUDA devices")
    return _cuda(index)


def _cpu() -> Device:
    model = _cpu_model()
    governor = _first_line(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")) or "unknown"
    settings = {
        "cpu": model,
        "cores": str(os.cpu_count() or 1),
        "architecture": platform.machine(),
        "governor": governor,
        "boost": boost_state(),
        "smt": smt_state(),
    }
    return Device(model, "cpu", "cpu", settings)


def _cpu_model() -> str:
    try:
        with Path("/proc/cpuinfo").open() as lines:
            for line in lines:
                key, _, value = line.partition(":")
                if key.strip() == "model name" and value.strip():
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "cpu"


def _cuda(index: int) -> Device:
    properties = torch.cuda.get_device_properties(index)
    unique = hashlib.sha256(str(getattr(properties, "uuid", index)).encode()).hexdigest()[:16]
    settings = {
        "gpu": properties.name,
        "unit": unique,  # hashed: a store may be shown to others
        "driver": _driver_version(),
    }
    return Device(properties.name, "cuda", f"cuda:{index}", settings)


def _driver_version() -> str:
    """Version of the NVIDIA kernel driver, without NVML, so that installing a meter changes no fingerprint."""
    words = _first_line(Path("/proc/driver/nvidia/version")).split()
    return next((word for word in words if word[:1].isdigit() and "." in word), "unknown")


def _first_line(path: Path) -> str:
    try:
        return path.read_text().splitlines()[0].strip()
    except (OSError, IndexError):
        return ""
