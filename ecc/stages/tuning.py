"""Tuning: training what is stored, through its decoding, by the loop that all methods share.

The parameters are the float leaves of a code and the tensors that are not coded; symbols stay. So survivors of
pruning stay the survivors, and a centroid's gradient is the sum over its cluster, without a rule for either.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ecc.core.code import Workshop
from ecc.core.errors import InputError
from ecc.stages.code import PackedCode, decode_node
from ecc.stages.kinds import KINDS
from ecc.stages.nodes import Form, Node, Numbers, Symbols, is_same, leaves, map_leaves
from ecc.stages.shared_parts import shared_parts

__all__ = ["Chosen", "Overridden", "TunedNetwork", "fitted", "tuned"]

Chosen = Callable[[str, str], bool]
"""(name of a tensor, path of a leaf in its tree, empty for a tensor that is not coded) → whether it is trained.

A leaf of a part that tensors share is trained as the first of them says.
"""


def tuned(
    code: PackedCode,
    workshop: Workshop,
    *,
    epochs: int,
    lr: float,
    phase: str,
    l2: float = 0.0,
    trained: Chosen | None = None,
) -> PackedCode:
    """The code with floats that were trained; as it is where the loss on the validation data is less before.

    Args:
        epochs: As ``lr``, ``phase`` and ``l2``, of ``Trainer``.
        trained: Which floats; all where None.

    Raises:
        InputError: If the code is not of the workshop's network, a parameter is not finite, or none is left to train.
    """
    parameters = dict(workshop.model.named_parameters(remove_duplicate=False))
    for name, node in code.nodes.items():
        if isinstance(node, Numbers) and name in parameters and not bool(node.values.isfinite().all()):
            raise InputError(
                f"{name!r} holds values that are not finite, and cannot be trained; mend the network first"
            )
    network = TunedNetwork(workshop.model, code, trained)
    before, _ = workshop.evaluate(network)
    workshop.train(network, epochs=epochs, lr=lr, phase=phase, l2=l2)
    after, _ = workshop.evaluate(network)
    return network.code() if after < before else code


def fitted(model: nn.Module, code: PackedCode) -> nn.Module:
    """A copy of the network with the weights of a code, in eval mode.

    Raises:
        InputError: If the code is not of the network.
    """
    if not isinstance(code, PackedCode):
        raise InputError(f"a code must be what ecc.stage gave as result.code, got {type(code).__name__}")
    network = copy.deepcopy(model).eval()
    try:
        network.load_state_dict(code.decode())
    except RuntimeError as error:
        told = _told_apart(network.state_dict(), code) or " ".join(str(error).split())
        raise InputError(f"the code is not that of the network: {told}; give the network whose state it is") from error
    return network


def _told_apart(state: dict[str, Tensor], code: PackedCode) -> str:
    """The first tensor in which a code and a state differ; empty if they do in none by name and shape."""
    decoded = code.decode()
    for name, tensor in state.items():
        if name not in decoded:
            return f"it has no {name!r}"
        if isinstance(tensor, Tensor) and decoded[name].shape != tensor.shape:
            return f"its {name!r} has shape {tuple(decoded[name].shape)}, and {tuple(tensor.shape)} is needed"
    return next((f"the network has no {name!r}" for name in decoded if name not in state), "")


class Overridden(nn.Module, ABC):
    """A network that runs with other tensors in the place of some of its own.

    What only it itself has changes as ever: running statistics, modes, dropout.

    Args:
        network: Not copied.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The other tensors, by their names in the network; a tied one under each of its names."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """What the network gives."""
        return functional_call(self.network, self.tensors(), inputs, named, tie_weights=False)


class TunedNetwork(Overridden):
    """A copy of a network whose parameters are what a code of its state stores.

    A float of two bytes is trained in four and rounded in every forward pass.

    Args:
        network: Its parameters that require no gradient stay as they are, coded or not, as do its buffers.
        code: Of its state.
        trained: Which floats are trained; all where None.

    Raises:
        InputError: If the code is not of the network, or a form in it is damaged.
    """

    def __init__(self, network: nn.Module, code: PackedCode, trained: Chosen | None = None) -> None:
        super().__init__(fitted(network, code))
        self.network.train(network.training)
        self._code = code
        own = {name: each.requires_grad for name, each in self.network.named_parameters(remove_duplicate=False)}
        forms = {name: node for name, node in code.nodes.items() if isinstance(node, Form)}
        names = {name: (name, *(alias for alias, of in code.aliases.items() if of == name)) for name in code.nodes}
        self._names = [names[name] for name in forms]

        def chosen(name: str, path: str) -> bool:
            return own.get(name, False) and (trained is None or trained(name, path))

        common = _Common()
        self.trees = nn.ModuleList(_Tree(form, _bound(chosen, name), common) for name, form in forms.items())
        coded = {alias for name in forms for alias in names[name]}
        main = {alias: name for name, every in names.items() for alias in every}
        for name, parameter in self.network.named_parameters(remove_duplicate=False):
            if name in coded or not chosen(main.get(name, name), ""):
                parameter.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in self.parameters()):
            raise InputError(
                "the code has no floats that may be trained; set requires_grad on the network's parameters"
            )
        self.trees.to(next((each.device for each in network.state_dict().values()), torch.device("cpu")))

    def tensors(self) -> dict[str, Tensor]:
        """Decoded, by name."""
        decoded: dict[str, Tensor] = {}
        for names, tree in zip(self._names, self._each_tree(), strict=True):
            decoded |= dict.fromkeys(names, tree())
        return decoded

    @torch.no_grad()
    def code(self) -> PackedCode:
        """The code with the floats as they are now, and the network's other tensors."""
        state = self.network.state_dict()
        nodes: dict[str, Node] = {
            name: node if isinstance(node, Form | Symbols) else _numbers(state[name])
            for name, node in self._code.nodes.items()
        }
        told: dict[int, Numbers] = {}
        for names, tree in zip(self._names, self._each_tree(), strict=True):
            nodes[names[0]] = tree.form(told)
        return replace(self._code, nodes=nodes)

    def _each_tree(self) -> Iterator[_Tree]:
        return (tree for tree in self.trees if isinstance(tree, _Tree))


def _numbers(tensor: Tensor) -> Numbers:
    return Numbers(tensor.detach().to("cpu", copy=True).contiguous())


def _bound(chosen: Chosen, name: str) -> Callable[[str], bool]:
    return lambda path: chosen(name, path)


class _Common:
    """The parameters of parts that tensors share."""

    def __init__(self) -> None:
        self._known: list[tuple[Form, dict[str, nn.Parameter]]] = []

    def of(self, form: Form) -> dict[str, nn.Parameter]:
        """Those of a shared part by the paths in it; empty, and to be filled, for the first that is like this."""
        for known, parameters in self._known:
            if is_same(known, form):
                return parameters
        self._known.append((form, {}))
        return self._known[-1][1]


class _Tree(nn.Module):
    """A form whose floats are parameters; the rest is decoded once."""

    def __init__(self, form: Form, trained: Callable[[str], bool], common: _Common) -> None:
        super().__init__()
        self._form = form
        known = [(f"{path}/", common.of(part)) for path, part in shared_parts(form)]
        self._slots = {path: f"leaf_{number}" for number, (path, _) in enumerate(leaves(form))}
        for path, leaf in leaves(form):
            values = decode_node(leaf)
            if isinstance(leaf, Numbers) and values.is_floating_point():
                wide = torch.promote_types(values.dtype, torch.float32)
                parameter = nn.Parameter(values.to(wide, copy=True), requires_grad=trained(path))
                for start, parameters in known:
                    if path.startswith(start):
                        parameter = parameters.setdefault(path.removeprefix(start), parameter)
                self.register_parameter(self._slots[path], parameter)
            else:
                self.register_buffer(self._slots[path], values, persistent=False)

    def forward(self) -> Tensor:
        """The tensor."""
        return self._decode(self._form, "")

    def _decode(self, node: Node, path: str) -> Tensor:
        if isinstance(node, Form):
            parts = {name: self._decode(part, f"{path}/{name}" if path else name) for name, part in node.parts.items()}
            return KINDS[node.kind].decode(node, parts)
        return self._values(path).to(node.values.dtype) if isinstance(node, Numbers) else self._values(path)

    def _values(self, path: str) -> Tensor:
        slot = self._slots[path]
        return self.get_parameter(slot) if slot in self._parameters else self.get_buffer(slot)

    def form(self, told: dict[int, Numbers]) -> Form:
        """With the floats as they are now.

        Args:
            told: Leaves by the identity of their parameters, so that what tensors share is copied once.
        """

        def current(path: str, leaf: Numbers | Symbols) -> Node:
            if isinstance(leaf, Symbols):
                return leaf
            values = self._values(path)
            if id(values) not in told:
                told[id(values)] = _numbers(values.to(leaf.values.dtype))
            return told[id(values)]

        found = map_leaves(self._form, current)
        assert isinstance(found, Form)
        return found
