"""FSDD, the free spoken digits: 3,000 clips of six speakers at 8 kHz, as log-mel frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from ecc.data.files import check, locate, pieces, read_npz
from ecc.data.values import Data, TensorBatches, accuracy

__all__ = ["FEATURES", "FRAMES", "fsdd", "log_mel"]

RATE = 8000  # Hz
FRAMES = 64
FEATURES = 40
_WINDOW = 256  # 32 ms
_HOP = 128  # 16 ms: 64 frames are one second
_FFT = 512
_CLIP = (FRAMES - 1) * _HOP + _WINDOW
_FLOOR = 1e-8  # of the power, below the noise of 16 bits: silence and padding are alike


def fsdd(data_dir: Path, batch_size: int) -> Data:
    """Frames (64, 40), normalised per feature, in the official split.

    Of each speaker and digit, recordings 0–4 are the test, 5–9 are for validation, the others for training.
    """
    path = locate(data_dir, "fsdd", "fsdd.npz")
    arrays = read_npz(path, ["samples", "offset", "label", "index", "sample_rate"])
    cuts = pieces(path, arrays["offset"], arrays["samples"].size)
    _check(path, arrays, len(cuts))
    samples = arrays["samples"]
    clips = np.stack([_centred(samples[a:b]) for a, b in cuts])
    features = np.concatenate([log_mel(clips[i : i + 250]) for i in range(0, len(clips), 250)])
    index = arrays["index"]
    train = index >= 10
    parts = {"train": train, "validation": (index >= 5) & ~train, "test": index < 5}
    for name, part in parts.items():
        check(path, bool(part.any()), f"no recording is for {name}")
    mean, std = features[train].mean((0, 1)), features[train].std((0, 1)) + 1e-6
    inputs = torch.from_numpy(((features - mean) / std).astype(np.float32))
    labels = torch.from_numpy(arrays["label"].astype(np.int64))
    loaders = {
        name: TensorBatches(inputs[part], labels[part], batch_size, shuffle=name == "train")
        for name, part in parts.items()
    }
    return Data(
        "fsdd",
        "classification",
        10,
        (FRAMES, FEATURES),
        train=loaders["train"],
        validation=loaders["validation"],
        test=loaders["test"],
        loss=F.cross_entropy,
        score=accuracy,
    )


def log_mel(clips: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logarithm of the power in 40 mel bands, shape (n, frames, 40), of clips in [-1, 1], shape (n, samples)."""
    windows = np.lib.stride_tricks.sliding_window_view(clips, _WINDOW, axis=1)[:, ::_HOP]
    spectrum = np.fft.rfft(windows * np.hanning(_WINDOW).astype(np.float32), _FFT)
    power = (np.abs(spectrum) ** 2 / _WINDOW).astype(np.float32)
    bands: NDArray[np.float32] = np.log(power @ _mel_filters() + _FLOOR)
    return bands


def _check(path: Path, arrays: dict[str, NDArray[Any]], clips: int) -> None:
    samples = arrays["samples"]
    check(path, samples.dtype == np.int16 and samples.ndim == 1, "its samples are no row of 16-bit integers")
    check(path, np.array_equal(arrays["sample_rate"], RATE), f"its rate is not {RATE} Hz")
    for name in ("label", "index"):
        values = arrays[name]
        whole = values.shape == (clips,) and np.issubdtype(values.dtype, np.integer)
        check(path, whole, f"its {name} is not one integer per clip")
    check(path, arrays["label"].min() >= 0 and arrays["label"].max() <= 9, "a label is not in 0 to 9")


def _centred(samples: NDArray[np.int16]) -> NDArray[np.float32]:
    """The middle of a clip, or silence around it, at the common length."""
    cut = max(len(samples) - _CLIP, 0) // 2
    middle = samples[cut : cut + _CLIP].astype(np.float32) / 2**15
    before = (_CLIP - len(middle)) // 2
    return np.pad(middle, (before, _CLIP - len(middle) - before))


def _mel_filters() -> NDArray[np.float32]:
    """Triangles of equal width on the mel scale from 20 Hz to half the rate, shape (bins, 40)."""
    mel = np.linspace(_to_mel(20.0), _to_mel(RATE / 2), FEATURES + 2)
    corners = 700 * (10 ** (mel / 2595) - 1)
    bins = np.linspace(0, RATE / 2, _FFT // 2 + 1)[:, np.newaxis]
    low, centre, high = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (bins - low) / (centre - low), (high - bins) / (high - centre)
    return np.maximum(0, np.minimum(rising, falling)).astype(np.float32)


def _to_mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))
