"""Copies share what they should and nothing else, and hold all that ``copy.deepcopy`` would."""

from __future__ import annotations

import copy
import weakref
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from ecc.core.errors import InputError
from ecc.network.copying import copied, copy_sharing


class Parent(nn.Module):
    """Holds what people keep in modules."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.again = self.fc
        self.plain = [nn.Linear(2, 2), self.fc]
        self.by_name = {"norm": self.norm, "pair": (self.fc, 1)}
        self.ordered = OrderedDict(a=[1, 2])
        self.names = {"x", "y"}
        self.shared: list[Any] = []
        self.also_shared = self.shared
        self.itself = weakref.ref(self)
        self.part = weakref.ref(self.norm)
        self.weight_of = weakref.ref(self.fc.weight)
        self.foreign = weakref.ref(Parent)
        self.made = self.fc.weight * 2
        self.nested = [self.fc.weight * 3]
        self.maker = self.double
        self.register_buffer("table", torch.arange(3.0), persistent=False)

    def double(self, x: Tensor) -> Tensor:
        return 2 * x

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(self.fc(x))
        return out


def duplicate(model: Parent) -> Any:
    return copy_sharing(model, {id(parameter): parameter for parameter in model.parameters()})


def test_what_is_one_object_stays_one_and_nothing_leads_back() -> None:
    model = Parent()
    made = duplicate(model)
    assert made.fc is made.again is made.plain[1] is made.by_name["pair"][0]
    assert made.norm is made.by_name["norm"]
    assert made.shared is made.also_shared
    assert made.fc.weight is model.fc.weight
    for name in ("fc", "norm", "plain", "by_name", "ordered", "names", "shared", "made", "table"):
        assert getattr(made, name) is not getattr(model, name), name
    assert made.plain[0] is not model.plain[0]
    assert torch.equal(made.plain[0].weight, model.plain[0].weight)
    assert (made.ordered, made.names) == (model.ordered, model.names)
    assert made.maker.__self__ is made
    assert torch.equal(made.made, model.made)
    assert torch.equal(made.nested[0], model.nested[0])
    assert made.state_dict().keys() == model.state_dict().keys()  # the table is in neither


def test_weak_references_to_parts_lead_to_their_copies() -> None:
    model = Parent()
    made = duplicate(model)
    assert made.itself() is made
    assert made.part() is made.norm
    assert made.weight_of() is made.fc.weight
    assert made.foreign() is Parent


def test_hooks_of_all_kinds_are_kept_and_apart() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    calls: list[str] = []
    model[0].register_forward_pre_hook(lambda *_: calls.append("before"))
    model[0].register_forward_hook(lambda *_, **__: calls.append("after"), with_kwargs=True)
    model[0].register_full_backward_hook(lambda *_: calls.append("backward"))
    model[0].register_state_dict_post_hook(lambda *_: calls.append("state"))
    model[0].register_state_dict_pre_hook(lambda *_: calls.append("state first"))
    model[0].register_load_state_dict_post_hook(lambda *_: calls.append("load"))
    made = copy_sharing(model, {})
    for part in (model, made):
        calls.clear()
        part(torch.ones(1, 2, requires_grad=True)).sum().backward()
        part.load_state_dict(part.state_dict())
        assert calls == ["before", "after", "backward", "state first", "state", "load"]
    handle = made[0].register_forward_hook(lambda *_: None)
    assert len(model[0]._forward_hooks) == 1
    handle.remove()


@pytest.mark.parametrize("whole", [False, True], ids=["part", "whole"])
def test_classes_that_copy_themselves_are_asked_to(whole: bool) -> None:
    class Own(nn.Linear):
        def __deepcopy__(self, memo: dict[int, Any]) -> Own:
            made = Own(2, 2)
            made.note = "own"  # type: ignore[assignment]
            return made

    class Slim(nn.Linear):
        def __getstate__(self) -> dict[str, Any]:
            return {**vars(self), "note": "state"}

    for kind, note in ((Own, "own"), (Slim, "state")):
        model = kind(2, 2) if whole else nn.Sequential(kind(2, 2))
        made: Any = copy_sharing(model, {})
        assert (made if whole else made[0]).note == note


@pytest.mark.parametrize(
    "model",
    [
        nn.LSTM(3, 4, 2, bidirectional=True),
        nn.TransformerEncoderLayer(8, 2, batch_first=True),
        nn.MultiheadAttention(8, 2),
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)),
        nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)),
        nn.LazyLinear(4),
        nn.ParameterDict({"a": nn.Parameter(torch.ones(2))}),
        nn.Upsample(scale_factor=2),
        fx.symbolic_trace(nn.Sequential(nn.Linear(2, 2))),
    ],
    ids=lambda model: type(model).__name__,
)
def test_the_copy_is_that_of_deepcopy(model: nn.Module) -> None:
    expected, made = copy.deepcopy(model), copy_sharing(model, {})
    assert str(made) == str(expected)
    for (path, a), (_, b) in zip(made.named_modules(), expected.named_modules(), strict=True):
        assert type(a).__name__ == type(b).__name__
        assert vars(a).keys() == vars(b).keys(), path
    assert not {id(tensor) for tensor in made.parameters()} & {id(tensor) for tensor in model.parameters()}
    assert [type(tensor) for tensor in made.parameters()] == [type(tensor) for tensor in expected.parameters()]


def test_attributes_and_classes_of_parameters_are_kept() -> None:
    class Marked(nn.Parameter):
        pass

    old = Marked(torch.zeros(3), requires_grad=False)
    old.no_decay = True  # type: ignore[attr-defined]
    new = copied(old, torch.ones(2))
    assert type(new) is Marked
    assert (new.requires_grad, new.no_decay) == (False, True)  # type: ignore[attr-defined]
    learnt = torch.zeros(3, requires_grad=True)
    assert copied(learnt, torch.ones(2)).requires_grad


def test_compiled_in_place_is_copied_without_its_compiled_form() -> None:
    model = nn.Linear(2, 2)
    model.compile(backend="eager")
    made = copy_sharing(model, {})
    assert "_compiled_call_impl" in vars(model)
    assert "_compiled_call_impl" not in vars(made)


def wrapped() -> dict[str, tuple[nn.Module, str]]:
    inner = nn.Sequential(nn.Linear(2, 2))
    script = "a TorchScript program; give the Python module that it was made from"
    return {
        "compiled": (
            torch.compile(inner),  # type: ignore[dict-item]
            "the network is compiled by torch.compile; give the module inside, its attribute _orig_mod",
        ),
        "parallel": (
            nn.DataParallel(inner),
            "the network is wrapped in DataParallel; give the network inside, its attribute module",
        ),
        "part": (nn.Sequential(nn.Sequential(torch.jit.script(inner))), f"the part '0.0' of the network is {script}"),
        "traced": (torch.jit.trace(inner, torch.ones(1, 2)), f"the network is {script}"),
    }


@pytest.mark.filterwarnings("ignore:`?torch.jit:DeprecationWarning")
@pytest.mark.parametrize("name", ["compiled", "parallel", "part", "traced"])
def test_wrappers_are_refused_with_a_sentence(name: str) -> None:
    model, message = wrapped()[name]
    with pytest.raises(InputError) as caught:
        copy_sharing(model, {})
    assert str(caught.value) == message


def test_what_cannot_be_copied_is_refused_with_a_sentence() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.stream = (number for number in range(3))  # type: ignore[assignment]
    with pytest.raises(InputError, match=r"^Sequential cannot be copied \(.*\); remove what cannot from it$"):
        copy_sharing(model, {})
