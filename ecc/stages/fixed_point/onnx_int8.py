"""Int8 by ONNX Runtime: an exported network in which layers multiply bytes, for execution by its CPU kernels.

Static quantisation: weights signed bytes with a scale per output channel, activations unsigned bytes whose ranges
calibration sets. On x86 without VNNI instructions products of such bytes are added up in pairs in 16 bits, which
saturate (2 · 255 · 127 > 32767), so there weights get 7 bits.
"""

from __future__ import annotations

import logging
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecc.core.errors import InputError, UnavailableError

__all__ = ["CALIBRATIONS", "Int8", "saturates", "to_int8"]

Feed = Mapping[str, NDArray[np.generic]]
"""Arrays by the names of a model's inputs."""

CALIBRATIONS = {"max": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
"""How ranges of activations are found → the library's name for it."""

_CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Int8:
    """How a network is put on bytes.

    Attributes:
        calibration: How ranges of activations are found: ``max``, ``percentile`` or ``entropy``.
        per_channel: Whether each output channel has a scale of its own.
        seven_bits: Whether weights get 7 bits only; where the processor would saturate, if None.
    """

    calibration: str = "max"
    per_channel: bool = True
    seven_bits: bool | None = None

    def __post_init__(self) -> None:
        if self.calibration not in CALIBRATIONS:
            raise InputError(
                f"Int8(calibration=...) must be one of {', '.join(CALIBRATIONS)}, got {self.calibration!r}"
            )


def to_int8(model: bytes, feeds: Sequence[Feed], settings: Int8 = Int8()) -> bytes:
    """An ONNX model in float32 as one that computes on bytes.

    Args:
        model: Serialised.
        feeds: Calibration data, one inference each.
        settings: How.

    Raises:
        InputError: If there is no calibration data, or the library cannot quantise the model.
        UnavailableError: If onnx or onnxruntime is not installed.
    """
    if not feeds:
        raise InputError("int8 needs calibration data: at least one batch of inputs")
    quantization = _library()
    seven_bits = saturates() if settings.seven_bits is None else settings.seven_bits
    with tempfile.TemporaryDirectory() as folder, _quiet():
        given, clean, made = (Path(folder) / f"{name}.onnx" for name in ("given", "clean", "made"))
        given.write_bytes(model)
        try:
            quantization.shape_inference.quant_pre_process(str(given), str(clean), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(clean),
                str(made),
                _Reader(feeds),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=settings.per_channel,
                reduce_range=seven_bits,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod[CALIBRATIONS[settings.calibration]],
            )
        except Exception as error:  # whatever the library raises
            why = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise InputError(f"ONNX Runtime cannot put the network on int8: {why[:200]}") from error
        return made.read_bytes()


def saturates() -> bool:
    """Whether products of unsigned and signed bytes may saturate on this processor; an x86 that does not tell might."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686", "i386"):
        return False
    try:
        flags = next(line for line in _CPUINFO.read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return True
    return "vnni" not in flags


class _Reader:
    """Calibration data as the library reads it."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Feed | None:
        """The next inference, or None."""
        return next(self._feeds, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the library prints and advises, which is of its own command line."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        root.setLevel(before)


def _library() -> Any:
    try:
        import onnx  # noqa: F401
        from onnxruntime import quantization
        from onnxruntime.quantization import shape_inference  # noqa: F401
    except ImportError as error:
        raise UnavailableError(
            f"int8 execution needs onnx and onnxruntime, and {error.name} is not installed; "
            "pip install 'ecc-compress[onnx]'"
        ) from error
    return quantization
