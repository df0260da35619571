"""DATA of the command line → Data."""

from __future__ import annotations

from pathlib import Path

from ecc.core.errors import InputError
from ecc.core.factories import suggestion
from ecc.data.digits import digits
from ecc.data.values import Data

__all__ = ["load_data"]


def load_data(spec: str, *, data_dir: str | Path | None = None, batch_size: int = 128, seed: int = 0) -> Data:
    """Read the data that DATA names."""
    if spec == "digits":
        return digits(batch_size)
    raise InputError(f"there is no data {spec!r}{suggestion(spec, ['digits'])}")
