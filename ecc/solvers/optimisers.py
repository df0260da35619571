"""Optimisers by name, or made by the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import nn
from torch.optim import Optimizer

from ecc.core.errors import InputError

__all__ = ["OPTIMIZERS", "OptimizerFactory", "Settings", "demand_trainable", "make_optimizer"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What the named optimisers take.

    Attributes:
        lr: Step size.
        weight_decay: Of all parameters.
        momentum: Of ``sgd``, ``nesterov`` and ``rmsprop``.
    """

    lr: float
    weight_decay: float
    momentum: float


@dataclass(frozen=True, slots=True)
class OptimizerFactory:
    """An optimiser of the user's own.

    Attributes:
        name: Identifies the optimiser and its settings: a checkpoint of another name is not resumed.
        make: Trainable parameters → optimiser, with its own step sizes and parameter groups.
    """

    name: str
    make: Callable[[list[nn.Parameter]], Optimizer]


_Maker = Callable[[list[nn.Parameter], Settings], Optimizer]


def _momentum(nesterov: bool) -> _Maker:
    def make(parameters: list[nn.Parameter], given: Settings) -> Optimizer:
        decay = given.weight_decay
        return torch.optim.SGD(parameters, given.lr, given.momentum, weight_decay=decay, nesterov=nesterov)

    return make


def _rmsprop(parameters: list[nn.Parameter], given: Settings) -> Optimizer:
    return torch.optim.RMSprop(
        parameters, given.lr, momentum=given.momentum, weight_decay=given.weight_decay, eps=1e-8, alpha=0.99
    )


OPTIMIZERS: Mapping[str, _Maker] = MappingProxyType(
    {
        "adam": lambda parameters, given: torch.optim.Adam(parameters, given.lr, weight_decay=given.weight_decay),
        "adamw": lambda parameters, given: torch.optim.AdamW(parameters, given.lr, weight_decay=given.weight_decay),
        "nadam": lambda parameters, given: torch.optim.NAdam(parameters, given.lr, weight_decay=given.weight_decay),
        "radam": lambda parameters, given: torch.optim.RAdam(parameters, given.lr, weight_decay=given.weight_decay),
        "rmsprop": _rmsprop,
        "sgd": _momentum(nesterov=False),
        "nesterov": _momentum(nesterov=True),
    }
)
"""Name → (parameters, settings) → optimiser."""

_PLAIN = ("sgd", "nesterov")  # divide by nothing


def demand_trainable(model: nn.Module, optimizer: str | OptimizerFactory) -> None:
    """Refuse parameters of float16 for named optimisers that divide by squares of gradients, of which it makes zeros.

    Raises:
        InputError: If there are such.
    """
    short = (name for name, each in model.named_parameters() if each.requires_grad and each.dtype == torch.float16)
    if isinstance(optimizer, str) and optimizer not in _PLAIN and (name := next(short, None)) is not None:
        raise InputError(
            f"the parameter {name!r} is of float16, in which {optimizer} cannot train; give the network as "
            "model.float() with inputs of float32, and store it in 16 bits at the end (stage half)"
        )


def make_optimizer(model: nn.Module, optimizer: str | OptimizerFactory, settings: Settings) -> Optimizer:
    """The optimiser of the model's trainable parameters.

    Args:
        optimizer: A key of OPTIMIZERS, or the user's own; ``settings`` are for the named ones.

    Raises:
        InputError: If no parameter can be trained, or not by a named optimiser; or if the factory returns something
            else or an optimiser that asks for the loss again within a step (L-BFGS).
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise InputError("the network has no trainable parameter; set requires_grad on those that may change")
    demand_trainable(model, optimizer)
    if isinstance(optimizer, str):
        return OPTIMIZERS[optimizer](parameters, settings)
    made: object = optimizer.make(parameters)
    if not isinstance(made, Optimizer) or isinstance(made, torch.optim.LBFGS):
        raise InputError(
            f"optimizer {optimizer.name!r} made a {type(made).__name__}; its factory must return a torch optimiser "
            "whose step() takes no closure"
        )
    return made
