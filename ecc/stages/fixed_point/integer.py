"""The integer-only reference path: a network run on whole numbers, with shifts between layers and no float division.

Weights are bytes times a power of two per output channel, biases int32, activations bytes times a power of two that
calibration data set; a layer adds up in int32, y = sat8((acc + 2^(s-1)) >> s) with s = n_w + n_x - n_y. The forward
runs as it is written; every operator is met on its way and done on integers where there is a rule for it. The others
stay float, between a dequantisation and a quantisation, and are named with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from ecc.core.errors import InputError
from ecc.network.capture import target_name, whole_operators
from ecc.network.copying import copied, copy_sharing
from ecc.network.nesting import bind, map_tensors, tensors_in
from ecc.network.running import running_paths
from ecc.stages.fixed_point.arithmetic import Range, Whole, to_bytes, to_whole
from ecc.stages.fixed_point.integer_rules import RULES, Weights, is_move
from ecc.stages.fixed_point.quantising import CLIPS, EXPONENTS, quantise, rows_of, steps_of
from ecc.stages.fixed_point.ranges import CALIBRATIONS, Observed
from ecc.stages.fixed_point.split import LARGEST_SPLIT

__all__ = ["IntegerNetwork", "IntegerPath", "Step", "integer_network"]

_BYTES = 255  # the largest magnitude of a byte, signed or not
_FIT = 0.98  # share of the weights that fit 8 bits where they are split


@dataclass(frozen=True, slots=True)
class IntegerPath:
    """How a network is put on integers.

    Attributes:
        calibration: How ranges of activations are found: ``mse``, ``max`` or ``percentile``.
        clip: How ranges of weights are found: ``max`` or ``mse``.
        split: Whether large weights take 16 bits in a sparse matrix of their own.
    """

    calibration: str = "mse"
    clip: str = "max"
    split: bool = False

    def __post_init__(self) -> None:
        for name, value, known in (("calibration", self.calibration, CALIBRATIONS), ("clip", self.clip, CLIPS)):
            if value not in known:
                raise InputError(f"IntegerPath({name}=...) must be one of {', '.join(known)}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of a forward.

    Attributes:
        operator: Its name.
        module: Path of the module that runs it.
        why_float: Why it does not run on integers; empty where it does.
    """

    operator: str
    module: str
    why_float: str


class IntegerNetwork(nn.Module):
    """A network that runs on whole numbers; what it gives is float again.

    Attributes:
        ranges: Of activations: by the place of the operator that makes them, and of inputs, -1 the first, -2 the next.
        steps: Operators in the order in which they ran on the calibration data.
    """

    def __init__(
        self, model: nn.Module, places: Mapping[int, Range], names: Mapping[int, str], path: IntegerPath
    ) -> None:
        super().__init__()
        self.network = model
        self.ranges, self._names = MappingProxyType(dict(places)), dict(names)
        self._weights = _Quantised(model, path)
        self.steps: tuple[Step, ...] = ()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives, from integers."""
        output, _ = self._run(args, kwargs)
        return output

    def train(self, mode: bool = True) -> IntegerNetwork:
        """It stays in eval mode: whole numbers are not trained."""
        return super().train(False)

    def watched(self, inputs: Any) -> tuple[Step, ...]:
        """The operators of one forward."""
        return self._run(*bind(inputs))[1]

    def _run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Step, ...]]:
        mode = _Integers(self.ranges, self._names, self._weights)
        with running_paths(self.network, mode.path), whole_operators():
            own = map_tensors(lambda tensor: tensor.clone(), (args, kwargs))  # in-place operators change copies
            mode.take(own)
            with mode:
                output = self.network(*own[0], **own[1])
        return map_tensors(lambda tensor: tensor.clone(), output), tuple(mode.steps)


def integer_network(
    model: nn.Module, calibration: Iterable[Any], *, path: IntegerPath = IntegerPath()
) -> IntegerNetwork:
    """A network on integers, with the ranges of its activations from data.

    Fold norms into the layers before (``ecc.stages.fold``): those that are left stay float.

    Args:
        model: Is left untouched; runs in eval mode.
        calibration: Batches of inputs, each a tensor, or a tuple or dict of the forward's arguments.
        path: How.

    Raises:
        InputError: If there is no calibration data, or batches run different operators.
    """
    own = {id(each): copied(each, each.detach().clone()) for each in (*model.parameters(), *model.buffers())}
    network = copy_sharing(model, own).to("cpu").eval()
    watch, last = _Watch(), None
    for batch in calibration:
        last, (args, kwargs) = batch, map_tensors(lambda tensor: tensor.clone(), bind(batch))
        with whole_operators(), watch.batch([args, kwargs]):
            network(*args, **kwargs)
    if last is None:
        raise InputError("the integer path needs at least one batch of calibration data")
    made = IntegerNetwork(network, watch.places(path.calibration), watch.names, path)
    made.steps = made.watched(last)
    return made


class _Quantised:
    """The weights of a network in fixed point, each made where it is first used."""

    def __init__(self, model: nn.Module, path: IntegerPath) -> None:
        self._path = path
        self._names = {id(each): name for name, each in model.named_parameters()}
        self._made: dict[tuple[str, tuple[int, ...]], Weights] = {}

    def of(self, weight: Tensor, least: Tensor | None) -> Weights | None:
        """As ``Calculator.weights``."""
        name = self._names.get(id(weight))
        if name is None or weight.ndim < 2 or not weight.is_floating_point():
            return None
        key = name, () if least is None else tuple(least.tolist())
        if key not in self._made:
            self._made[key] = self._quantise(name, weight, least)
        return self._made[key]

    def _quantise(self, name: str, weight: Tensor, least: Tensor | None) -> Weights:
        rows, path = rows_of(weight, per_channel=True), self._path
        if not bool(rows.isfinite().all()):
            raise InputError(f"{name!r} has weights that are not finite; mend them first")
        clip, fit = ("max", _FIT) if path.split else (path.clip, 1.0)
        steps = steps_of(rows, 127, clip=clip, power_of_two=True, fit=fit)
        if least is not None:  # channels of next to no weights beside a bias that must fit int32
            steps = torch.maximum(steps.to(torch.int64), least).clamp(*EXPONENTS).to(torch.int8)
        numbers = quantise(rows, steps, LARGEST_SPLIT if path.split else 127).to(torch.int64)
        return Weights(numbers.reshape(weight.shape), steps.to(torch.int64), path.split)


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Observes every float that operators make, by the operator's place in the forward; inputs have negative places."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen: dict[int, Observed] = {}
        self.names: dict[int, str] = {}
        self._at = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operator imports PyTorch's compiler, which takes seconds

    @contextmanager
    def batch(self, inputs: Any) -> Iterator[None]:
        """While a batch runs."""
        self._at = 0
        for number, tensor in enumerate(tensors_in(inputs)):
            self._note(-1 - number, tensor)
        with self:
            yield

    def places(self, calibration: str) -> dict[int, Range]:
        """The ranges of all that was seen."""
        return {place: seen.range(calibration) for place, seen in self._seen.items()}

    def _note(self, place: int, tensor: Tensor) -> None:
        if tensor.is_floating_point():
            self._seen.setdefault(place, Observed()).add(tensor)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = target_name(func)
        if self.names.setdefault(self._at, name) != name:
            raise InputError("the network runs other operators from batch to batch, so that no range belongs to one")
        if isinstance(output, Tensor):
            self._note(self._at, output)
        self._at += 1
        return output


class _Integers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Does operators on whole numbers; tensors of the forward hold the same numbers as floats, for all that reads them.

    Attributes:
        path: Modules that are running, outermost first.
        steps: What ran so far.
    """

    def __init__(self, places: Mapping[int, Range], names: Mapping[int, str], weights: _Quantised) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.path = [""]
        self.steps: list[Step] = []
        self._places, self._names, self._weights = places, names, weights
        self._wholes: Any = WeakIdKeyDictionary()
        self._made_at: Any = WeakIdKeyDictionary()
        self._at = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as above

    @property
    def place(self) -> Range:
        """Of the running operator's output."""
        return self._places[self._at]

    def take(self, inputs: Any) -> None:
        """Know the inputs of the forward."""
        for number, tensor in enumerate(tensors_in(inputs)):
            self._made_at[tensor] = -1 - number

    def whole(self, tensor: Tensor) -> Whole | None:
        """As ``Calculator.whole``; a float whose range is known becomes bytes only where bytes are asked for."""
        found: Whole | None = self._wholes.get(tensor)
        return found

    def bytes_of(self, tensor: Tensor) -> Whole:
        """As ``Calculator.bytes_of``."""
        known, at = self.whole(tensor), self._made_at.get(tensor)
        if known is not None and known.uniform and known.bound <= _BYTES:
            return known
        if at not in self._places:
            raise _NoRangeError
        place = self._places[at]
        made = to_whole(tensor, place) if known is None else to_bytes(known, place)
        self._wholes[tensor] = made
        return made

    def weights(self, tensor: Tensor, least: Tensor | None) -> Weights | None:
        """As ``Calculator.weights``."""
        return self._weights.of(tensor, least)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given, name = kwargs or {}, target_name(func)
        if self._names.get(self._at) != name:
            raise InputError(
                f"the network runs {name} where it ran {self._names.get(self._at)} on the calibration data"
            )
        result = self._result(func, name, args, given)
        if isinstance(result, Whole) and not is_move(name):
            output = self._written(func, args, result)
        else:
            output = func(*args, **given)
            if func._schema.is_mutable:
                self._forget(args)
        if isinstance(output, Tensor):
            if isinstance(result, Whole):
                self._wholes[output] = result
            self._made_at[output] = self._at
        if not is_move(name) and any(tensor.is_floating_point() for tensor in tensors_in([args, output])):
            self.steps.append(Step(name, self.path[-1], result if isinstance(result, str) else ""))
        self._at += 1
        return output

    def _result(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Whole | str:
        rule = RULES.get(name)
        if rule is None or (func._schema.is_mutable and is_move(name)):
            return "there is no integer form of it here"
        arguments = {
            argument.name: args[i] if i < len(args) else kwargs.get(argument.name, argument.default_value)
            for i, argument in enumerate(func._schema.arguments)
        }
        try:
            return rule(self, func, arguments)
        except _NoRangeError:
            return "an operand is no activation"

    def _written(self, func: Any, args: tuple[Any, ...], result: Whole) -> Tensor:
        """The floats of a result, in the tensor that the operator would have written."""
        if not func._schema.is_mutable:
            return result.floats()
        self._forget(args[:1])
        changed: Tensor = args[0]
        return changed.copy_(result.floats())

    def _forget(self, tensors: Any) -> None:
        """Numbers that are written over are known as floats only, through every view of them."""
        places = {tensor.untyped_storage().data_ptr() for tensor in tensors_in(tensors)}
        for tensor in [each for each in self._wholes if each.untyped_storage().data_ptr() in places]:
            del self._wholes[tensor]


class _NoRangeError(Exception):
    """An operand has no calibrated range: a parameter, or a constant of the forward."""
