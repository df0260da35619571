"""Fusion: which calls of a network a runtime merges into others, so that they cost nothing of their own.

Derived from who reads whose output, never from names of modules. Where the rules below know nothing of a runtime, every
call costs what it costs alone, as in eager.

| runtime | what is merged |
|---|---|
| eager | nothing |
| cudagraph | nothing: the kernels are those of eager, only launching them is cheaper |
| compile | a norm with fixed statistics, an activation, an add … into the elementwise call before (Inductor) |
| onnxruntime | batch norm, an add and an activation, in this order, into a convolution; an activation into a linear |
| openvino | batch norm, and any sequence of activations, adds and products with smaller tensors, likewise |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ecc.core.calls import OperatorCall
from ecc.core.operators import CONVOLUTIONS, POINTWISE

__all__ = ["hosts"]

_ELEMENTWISE = frozenset({"batch-norm", *POINTWISE, "add", "multiply", "shift", "scale"})


@dataclass(frozen=True, slots=True)
class _Rule:
    """What one kind of call takes in.

    Attributes:
        hosts: Kinds that others are merged into.
        stages: Kinds that may follow, by stage; a stage may be left out, never returned to.
        repeats: Whether a stage may hold several calls.
    """

    hosts: frozenset[str]
    stages: tuple[frozenset[str], ...]
    repeats: bool = False


_CONVOLUTIONS, _LINEAR = frozenset(CONVOLUTIONS), frozenset({"linear"})
_NORM, _ADD = frozenset({"batch-norm"}), frozenset({"add"})
_CHEAP = frozenset({"relu", "relu6", "sigmoid", "tanh", "hardsigmoid"})  # what ONNX Runtime's fused convolutions know
_AFTER = frozenset({*POINTWISE, "add", "multiply", "shift", "scale"})

_RULES: Mapping[str, tuple[_Rule, ...]] = MappingProxyType(
    {
        "eager": (),
        "cudagraph": (),
        "compile": (_Rule(_ELEMENTWISE, (_ELEMENTWISE,), repeats=True),),
        "onnxruntime": (_Rule(_CONVOLUTIONS, (_NORM, _ADD, _CHEAP)), _Rule(_LINEAR, (_CHEAP,))),
        "openvino": (_Rule(_CONVOLUTIONS, (_NORM, _AFTER), repeats=True), _Rule(_LINEAR, (_AFTER,), repeats=True)),
    }
)


def hosts(calls: Sequence[OperatorCall], runtime: str) -> tuple[int, ...]:
    """The number of the call that does the work of each call: its own, or that of one before it.

    A call is merged only into the chain of one whose output nothing else reads; an add with two such operands goes into
    the one that is made last, since the other has to be there by then.
    """
    rules = {kind: rule for rule in _RULES.get(runtime, ()) for kind in rule.hosts}
    readers = Counter(source for call in calls for source in call.inputs)
    found: list[int] = []
    stage: dict[int, int] = {}  # that the chain ending in a call has reached
    for number, call in enumerate(calls):
        kind = call.operator.kind
        host = number
        for source in sorted((each for each in call.inputs if each >= 0), reverse=True):
            reached = stage.get(source)
            if reached is None or readers[source] != 1 or source >= number:
                continue
            rule = rules[calls[found[source]].operator.kind]
            first = max(reached if rule.repeats else reached + 1, 0)
            later = next((i for i in range(first, len(rule.stages)) if kind in rule.stages[i]), None)
            if later is not None:
                host, stage[number] = found[source], later
                break
        if host == number and kind in rules:
            stage[number] = -1
        found.append(host)
    return tuple(found)
