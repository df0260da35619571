"""Stage ``fold``: norms and scalings become part of the layers beside them, and a last softmax goes.

A batch norm in eval mode, or any module that only scales and shifts channels, such as the (x - mu) / sigma at the
input, folds into the linear or convolutional layer before it, or into all layers behind it if none of them pads with
zeros (padding would have to be the number that the norm makes of zero). It stays where something else reads between
the two, where it or the layer runs twice, and where an activation is in between. Whatever is folded, the outputs on
real and on perturbed inputs are compared with those of the network before, and what changes them is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ecc.core.code import Code, State, Workshop
from ecc.core.errors import InputError, NothingToDo
from ecc.network.capture import run
from ecc.network.comparing import difference
from ecc.network.copying import copied, copy_sharing, refuse_wrappers
from ecc.network.examining import examine
from ecc.network.following import follow
from ecc.network.nesting import map_tensors
from ecc.stages.code import PackedCode, packed
from ecc.stages.edits import Edit, apply_edits, bias_edit, identity_edit
from ecc.stages.fold_arithmetic import Layer, after, before
from ecc.stages.fold_finding import Affine, channels_of, find, winner_layers
from ecc.stages.nodes import Form

__all__ = ["Fold", "Folded", "fold"]

_LOG = logging.getLogger("ecc")
_TOLERANCE = 1e-5  # relative to the largest output: rounding of weights in float32 makes 1e-7
_COARSE_TOLERANCE = 3e-2  # half precision


@dataclass(frozen=True, slots=True, eq=False)
class Folded:
    """A network after folding.

    Attributes:
        model: A new network, in eval mode; the one that was given is untouched.
        edits: What was done to its structure, in order.
        folded: Paths of the modules that are no more.
        left: Path of each module that could not be folded → why.
    """

    model: nn.Module
    edits: tuple[Edit, ...]
    folded: tuple[str, ...]
    left: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Fold:
    """Folding as a stage; it comes before the stages that quantise.

    Attributes:
        winner_only: Whether only the largest output matters, so that a last softmax or log-softmax may go.
    """

    winner_only: bool = False

    @property
    def name(self) -> str:
        """As on the command line."""
        return "fold"

    def encode(self, state: State | Code, workshop: Workshop | None = None) -> PackedCode:
        """The state of the folded network, with the edits of its structure.

        Raises:
            NothingToDo: If there is nothing to fold.
            InputError: If the state is quantised already, or no network is given.
        """
        code = packed(state)
        if workshop is None:
            raise InputError(
                "fold needs the network and a batch of inputs, to see what runs after what; give a workshop"
            )
        if coded := [name for name, node in code.nodes.items() if isinstance(node, Form)]:
            raise InputError(f"{coded[0]!r} is coded already, and folding would undo that; fold first")
        model = apply_edits(workshop.model, code.edits)
        try:
            model.load_state_dict(code.decode())
        except RuntimeError as error:
            raise InputError(
                f"the state is not that of the workshop's network: {str(error).splitlines()[-1]}"
            ) from error
        found = fold(model, workshop.inputs, winner_only=self.winner_only)
        for path, why in found.left.items():
            _LOG.info("fold leaves %s: %s", path, why)
        if not found.folded:
            told = "; ".join(f"{path} stays: {why}" for path, why in list(found.left.items())[:3])
            raise NothingToDo(f"there is nothing to fold in {type(model).__name__}" + (f" ({told})" if told else ""))
        return replace(packed(found.model.state_dict()), edits=(*code.edits, *found.edits), left=code.left)


def fold(model: nn.Module, inputs: Any, *, winner_only: bool = False) -> Folded:
    """A network that computes the same with fewer modules.

    Args:
        model: Is left untouched; runs in eval mode here.
        inputs: A batch on which outputs are compared: a tensor, or a tuple or dict of the forward's arguments.
        winner_only: Whether a softmax or log-softmax that makes an output may go; its largest element stays that.

    Raises:
        InputError: If the network does not run on the inputs or cannot be recorded.
    """
    refuse_wrappers(model)
    examine(model, lambda: _duplicate(model).eval(), inputs)
    work = _Work(_duplicate(model).eval(), inputs)
    work.fold_affine()
    if winner_only:
        work.drop_softmax()
    return Folded(work.model, tuple(work.edits), tuple(work.folded), work.left)


@dataclass(slots=True)
class _Work:
    """A network while it is being folded."""

    model: nn.Module
    inputs: Any
    edits: list[Edit] = field(default_factory=list)
    folded: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)

    def fold_affine(self) -> None:
        """Round after round, until nothing more folds: a norm behind a norm takes two."""
        judge, failed = _Judge(self.model, self.inputs), dict[str, str]()
        while True:
            found = find(self.model, follow(self._fresh, self.inputs))
            self.left = {**found.left, **failed}
            plans = [plan for each in found.affine if each.path not in failed and (plan := self._plan(each))]
            if not (plans := _apart(plans)):
                return
            trial = _done(self.model, plans)
            if judge.accepts(trial):
                self._take(trial, plans)
                continue
            for plan in plans:
                trial = _done(self.model, [plan])
                if judge.accepts(trial):
                    self._take(trial, [plan])
                else:
                    failed[plan.path] = "the outputs change if it is folded"

    def drop_softmax(self) -> None:
        """Take the last softmax off each output, if the winners stay the same."""
        for path, axis in winner_layers(self.model, follow(self._fresh, self.inputs)).items():
            trial = apply_edits(self.model, [identity_edit(path)])
            outputs = zip(run(self.model, self.inputs), run(trial, self.inputs), strict=True)
            if all(a.shape == b.shape and _same_winner(a, b, axis) for a, b in outputs):
                self._take(trial, [_Plan(path, (), (identity_edit(path),))])
            else:
                self.left[path] = "another element is the largest without it"

    def _take(self, trial: nn.Module, plans: Sequence[_Plan]) -> None:
        self.model = trial
        self.edits += [edit for plan in plans for edit in plan.edits]
        self.folded += [plan.path for plan in plans]

    def _fresh(self) -> nn.Module:
        return copy_sharing(self.model, {id(tensor): tensor for tensor in self.model.parameters()}).eval()

    def _plan(self, affine: Affine) -> _Plan | None:
        """How to fold a module; None, with the reason noted, if the numbers do not allow it."""
        known = _scale_and_shift(self.model.get_submodule(affine.path), affine.shape)
        if known is None:
            self.left[affine.path] = "it does not scale and shift every number alike"
            return None
        scale, shift = known
        targets = (affine.producer,) if affine.producer else affine.consumers
        if affine.producer is None and any(target.padded for target in targets) and bool((shift != 0).any()):
            self.left[affine.path] = "the layer behind it pads with zeros, which are not what it makes of zero"
            return None
        changes = []
        for target in targets:
            own = channels_of(scale, target.axis), channels_of(shift, target.axis)
            if own[0] is None or own[1] is None or not bool(own[0].isfinite().all() and own[1].isfinite().all()):
                self.left[affine.path] = "its scale and shift are not one finite number per channel of the layer"
                return None
            changes.append(_Change(target.path, own[0], own[1], behind=affine.producer is None))
        edits = [bias_edit(target.path) for target in targets if self.model.get_submodule(target.path).bias is None]
        return _Plan(affine.path, tuple(changes), (*edits, identity_edit(affine.path)))


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """What happens to one layer: a scale and shift of its channels, shapes (channels,), before it or behind it."""

    path: str
    scale: Tensor
    shift: Tensor
    behind: bool  # the layer is behind the module, so the module's work comes before the layer's

    def do(self, model: nn.Module) -> None:
        """Change the weights in place."""
        part = model.get_submodule(self.path)
        if not isinstance(part, nn.Linear | _ConvNd) or part.bias is None:
            raise TypeError(f"{self.path} is not a layer with a bias")
        groups = part.groups if isinstance(part, _ConvNd) else 1
        layer = Layer(
            part.weight.detach().double(), part.bias.detach().double(), groups, isinstance(part, _ConvTransposeNd)
        )
        made = (before if self.behind else after)(layer, self.scale, self.shift)
        with torch.no_grad():
            part.weight.copy_(made.weight)
            part.bias.copy_(made.bias)


@dataclass(frozen=True, slots=True)
class _Plan:
    """How one module is folded."""

    path: str
    changes: tuple[_Change, ...]
    edits: tuple[Edit, ...]


def _apart(plans: Sequence[_Plan]) -> list[_Plan]:
    """Those that touch no layer which an earlier one touches, and take away none whose neighbour goes."""
    touched: set[str] = set()
    chosen = []
    for plan in plans:
        layers = {change.path for change in plan.changes}
        if touched.isdisjoint(layers):
            touched |= layers
            chosen.append(plan)
    return chosen


def _done(model: nn.Module, plans: Sequence[_Plan]) -> nn.Module:
    """A copy of a network with plans carried out."""
    trial = apply_edits(model, [edit for plan in plans for edit in plan.edits])
    for plan in plans:
        for change in plan.changes:
            change.do(trial)
    return trial


def _scale_and_shift(module: nn.Module, shape: tuple[int, ...]) -> tuple[Tensor, Tensor] | None:
    """What a module multiplies its input by and adds, in float64, of the shape of one example."""
    size = (1, *shape[1:])
    try:
        exact = _duplicate(module).double().eval()
        device = next((tensor.device for tensor in _tensors(module)), torch.device("cpu"))
        (shift,), (one,) = (run(exact, torch.full(size, v, dtype=torch.float64, device=device)) for v in (0.0, 1.0))
    except (RuntimeError, ValueError, TypeError):  # as of a module that insists on its batch
        return None
    return (one - shift, shift) if shift.shape == size else None


class _Judge:
    """The outputs that a network had, on its inputs and on perturbed ones, in float64 where it runs in that."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        generator = torch.Generator().manual_seed(0)

        def disturb(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point():
                return tensor
            noise = torch.randn(tensor.shape, generator=generator).to(tensor.device, tensor.dtype)
            return tensor + noise * tensor.float().std(correction=0).to(tensor.dtype)

        half = any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in model.parameters())
        self._limit = _COARSE_TOLERANCE if half else _TOLERANCE
        self._inputs = [inputs, map_tensors(disturb, inputs)]
        self._double = True
        try:
            self._expected = self._outputs(model)
        except Exception:  # whatever a forward raises that insists on its precision
            self._double = False
            self._expected = self._outputs(model)

    def _outputs(self, model: nn.Module) -> list[list[Tensor]]:
        copy = _duplicate(model).eval()
        if self._double:
            copy = copy.double()
        return [run(copy, map_tensors(self._widened, inputs)) for inputs in self._inputs]

    def _widened(self, tensor: Tensor) -> Tensor:
        return tensor.double() if self._double and tensor.is_floating_point() else tensor

    def accepts(self, model: nn.Module) -> bool:
        """Whether a network gives the same outputs."""
        try:
            found = self._outputs(model)
        except Exception:  # whatever a forward raises that needs what was taken away
            return False
        return all(difference(a, b) <= self._limit for a, b in zip(self._expected, found, strict=True))


def _same_winner(a: Tensor, b: Tensor, axis: int) -> bool:
    """Whether the largest elements along an axis are at the same places, but for ties that rounding made in ``a``."""
    places = b.argmax(axis, keepdim=True)
    return bool((a.gather(axis, places) == a.amax(axis, keepdim=True)).all())


def _duplicate(model: nn.Module) -> nn.Module:
    """A copy with tensors of its own."""
    return copy_sharing(model, {id(each): copied(each, each.detach().clone()) for each in _tensors(model)})


def _tensors(model: nn.Module) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]
