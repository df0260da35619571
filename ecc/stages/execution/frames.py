"""Frames: acoustic models as networks of a stream, an output per frame, that may evaluate one frame of several.

With ``every`` = k, of k neighbouring frames the middle one is evaluated and its output copied to the others (frame
skipping; Vanhoucke et al. 2013, Miao et al. 2016), for 1/k of the work. Windows around a frame are of the full rate. A
recurrent model steps from one evaluated frame to the next, so that its time constants change by k: train it with the
``every`` that it will run with. Training goes through the same ``forward``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ecc.core.errors import InputError

__all__ = ["ClipMean", "FrameModel", "FrameStream", "RecurrentFrames", "WindowFrames"]


class FrameModel(nn.Module):
    """Outputs per frame; what the kinds of models share.

    Args:
        before: Frames before the one in question that are seen with it.
        after: Those after it, by which outputs of a stream are late.
        every: k; outputs are late by (k - 1) // 2 more.
    """

    def __init__(self, before: int, after: int, every: int) -> None:
        super().__init__()
        whole = all(isinstance(each, int) and not isinstance(each, bool) for each in (before, after, every))
        if not whole or before < 0 or after < 0 or every < 1:
            raise InputError(
                "a frame model takes whole numbers, before and after of at least 0 and every of at least 1, "
                f"got {before!r}, {after!r} and {every!r}"
            )
        self.before, self.after, self.every = before, after, every

    def evaluated(self, frames: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Outputs of some frames, in their order, and the state behind the last of them.

        Args:
            frames: Shape (batch, n, features); with a window (batch, n, before + 1 + after, features).
            state: Behind the frames before; None at the beginning.
        """
        raise NotImplementedError

    def forward(self, frames: Tensor) -> Tensor:
        """Of whole clips: shape (batch, time, features) → (batch, time, …). The ends of a clip are repeated."""
        _check(frames)
        time = frames.shape[1]
        centres = self.centres(0, -(-time // self.every), time)
        outputs, _ = self.evaluated(self.windows(frames, centres), None)
        return outputs.repeat_interleave(self.every, 1)[:, :time] if self.every > 1 else outputs

    def stream(self) -> FrameStream:
        """A stream of frames, at its beginning."""
        return FrameStream(self)

    def centres(self, first: int, stop: int, time: int) -> Tensor:
        """Which frames are evaluated for some groups of ``every`` frames, of a clip of so many."""
        return (torch.arange(first, stop) * self.every + (self.every - 1) // 2).clamp(max=time - 1)

    def windows(self, frames: Tensor, centres: Tensor) -> Tensor:
        """What ``evaluated`` takes of a part of a clip; its ends are repeated."""
        if not self.before and not self.after:
            return frames[:, centres]
        around = centres[:, None] + torch.arange(-self.before, self.after + 1)
        return frames[:, around.clamp(0, frames.shape[1] - 1)]


class WindowFrames(FrameModel):
    """A feed-forward network that sees a window around each frame.

    Args:
        network: Windows (n, before + 1 + after, features) → outputs (n, …); it keeps nothing from one to another.
        before: Frames of the window before the one in question.
        after: Those after it.
        every: Of how many frames one is evaluated.
    """

    def __init__(self, network: nn.Module, before: int, after: int, *, every: int = 1) -> None:
        super().__init__(before, after, every)
        self.network = network

    def evaluated(self, frames: Tensor, state: Any) -> tuple[Tensor, Any]:
        """All windows as one batch."""
        windows = frames if self.before or self.after else frames[:, :, None]
        found: Tensor = self.network(windows.flatten(0, 1))
        return found.reshape(*windows.shape[:2], *found.shape[1:]), None


class RecurrentFrames(FrameModel):
    """Recurrent layers, one after the other, and what makes outputs of each frame.

    Args:
        layers: Each as torch's LSTM or GRU with batch_first, (frames, state) → (outputs, state), forward in time.
        head: Reads the last layer's outputs; they are the outputs when None.
        every: Of how many frames one is evaluated.
    Raises:
        InputError: If they are no layers of frames and a state, or one of torch reads time backwards or wants it first.
    """

    def __init__(self, layers: Iterable[nn.Module], head: nn.Module | None = None, *, every: int = 1) -> None:
        super().__init__(0, 0, every)
        try:
            self.layers = nn.ModuleList(list(layers))
        except TypeError as error:  # no list, or one of others than modules
            raise InputError(
                f"RecurrentFrames(layers=...) takes a list of layers, as [nn.GRU(...)], got {type(layers).__name__}"
            ) from error
        self.head = nn.Identity() if head is None else head
        for layer in self.layers:
            if not _takes_state(layer):
                raise InputError(
                    "RecurrentFrames(layers=...) takes layers of frames and a state, as torch's LSTM and GRU, not "
                    f"{type(layer).__name__}; what reads their outputs belongs to the head"
                )
            if isinstance(layer, nn.RNNBase) and (layer.bidirectional or not layer.batch_first):
                raise InputError(
                    f"a stream of frames runs through layers with batch_first in one direction, not {layer}"
                )

    def evaluated(self, frames: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Step by step within each layer."""
        states = [None] * len(self.layers) if state is None else state
        found = []
        for layer, before in zip(self.layers, states, strict=True):
            frames, behind = layer(frames, before)
            found.append(behind)
        outputs: Tensor = self.head(frames)
        return outputs, found


class FrameStream:
    """Frames that arrive bit by bit; outputs are those of the whole clip at once, as soon as they are known.

    Attributes:
        seen: Frames that were given.
        given: Outputs that were returned.
    """

    def __init__(self, model: FrameModel) -> None:
        self._model, self._state = model, None
        self._frames: Tensor | None = None  # the last ones
        self._first = 0  # which frame is the first of them
        self._groups = 0  # that were evaluated
        self._ready: list[Tensor] = []
        self._over = False
        self.seen = self.given = 0

    @torch.no_grad()
    def push(self, frames: Tensor) -> list[Tensor]:
        """Outputs that are known now, each (batch, …), from the next frames, (batch, n, features).

        One frame of shape (features,) is pushed as ``frame[None, None]``, frames of a batch, (batch, features), as
        ``frames[:, None]``. There is never an output before its frame.

        Raises:
            InputError: If the stream is over, or the frames are not like those before.
        """
        _check(frames, least=0)
        if self._over:
            raise InputError("the stream is over; begin another by stream()")
        there = self._frames
        if there is not None and (frames.shape[0], *frames.shape[2:]) != (there.shape[0], *there.shape[2:]):
            raise InputError(f"frames {tuple(frames.shape)} do not go on those before, {tuple(there.shape)}")
        # Copied in either case: a caller may use one buffer for all frames.
        self._frames = frames.clone() if there is None else torch.cat([there, frames], 1)
        self.seen += frames.shape[1]
        model = self._model
        known = self.seen - model.after - (model.every - 1) // 2  # a group is known once its middle and window are
        self._evaluate(-(-known // model.every))
        return self._returned()

    @torch.no_grad()
    def finish(self) -> list[Tensor]:
        """The outputs that waited for frames which do not come any more; the stream is over then.

        Raises:
            InputError: If it was over before.
        """
        if self._over:
            raise InputError("the stream is over; begin another by stream()")
        self._over = True
        self._evaluate(-(-self.seen // self._model.every))
        return self._returned()

    def _evaluate(self, groups: int) -> None:
        """All groups up to a number of them."""
        if groups <= self._groups or self._frames is None:
            return
        model, frames = self._model, self._frames
        centres = model.centres(self._groups, groups, self.seen)
        outputs, self._state = model.evaluated(model.windows(frames, centres - self._first), self._state)
        for output in outputs.unbind(1):
            self._ready += [output] * model.every
        self._groups = groups
        following = min(groups * model.every + (model.every - 1) // 2, self.seen - 1)  # the clip may end here
        needed = following - model.before
        if needed > self._first:
            self._frames, self._first = frames[:, needed - self._first :], needed

    def _returned(self) -> list[Tensor]:
        count = min(self.seen - self.given, len(self._ready))
        found, self._ready = self._ready[:count], self._ready[count:]
        self.given += count
        return found


class ClipMean(nn.Module):
    """A class per clip by the mean of its frames' outputs; what a frame model is trained through on isolated words.

    Args:
        frames: Per frame.
    """

    def __init__(self, frames: FrameModel) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, frames: Tensor) -> Tensor:
        """Shape (batch, time, features) → (batch, …)."""
        found: Tensor = self.frames(frames)
        return found.mean(1)


def _check(frames: Tensor, least: int = 1) -> None:
    if not isinstance(frames, Tensor):
        raise InputError(f"frames must be a tensor of shape (batch, time, features), got {type(frames).__name__}")
    if frames.ndim < 3:
        raise InputError(
            f"frames must be (batch, time, features), got shape {tuple(frames.shape)}; a single frame is "
            "frame[None, None]"
        )
    if frames.shape[1] < least:
        raise InputError(
            f"frames must be (batch, time, features) with a frame at least, got shape {tuple(frames.shape)}"
        )


def _takes_state(layer: nn.Module) -> bool:
    """Whether a layer can be called with frames and a state, as far as it tells."""
    try:
        signature = inspect.signature(layer.forward)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(None, None)
    except TypeError:
        return False
    return True
