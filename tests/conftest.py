"""Settings of all tests: one thread, Ctrl-C as a terminal sends it, the same random examples in every run."""

import importlib
import os
import signal
import tempfile
from collections.abc import Iterator
from functools import cache
from types import ModuleType

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)  # several threads that spin for small kernels make the suite ten times slower
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
os.environ.pop("COLUMNS", None)  # workers of pytest-xdist have it; tables in pipes would be folded to it
settings.register_profile("ecc", deadline=None, derandomize=True)
settings.load_profile("ecc")


@pytest.fixture(autouse=True, scope="session")
def own_devices() -> Iterator[None]:
    """Nobody waits for tests, and tests wait for nobody: locks on devices are in a folder of theirs."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", os.path.realpath(folder))
        yield


def import_torchvision() -> ModuleType:
    """``torchvision.models``, beside a CPU torch too, where it lacks the operators that it describes on import.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        return importlib.import_module("torchvision.models")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    _declare_operators()
    return importlib.import_module("torchvision.models")


@cache  # a declaration lasts as long as its library
def _declare_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library
