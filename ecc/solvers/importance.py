"""Importance: how much the loss would rise without a unit, for the units of coupled groups.

- ``l1``: Σ abs(w) over the weights that read the unit (Li et al., ICLR 2017, take the weights that write it);
- ``l2``: (Σ w²)^½ over the same weights. Norms rank the units of one group; those of two groups are not comparable;
- ``taylor``: root of the mean over batches of (Σ w·∂L/∂w)², the first-order change of a batch's loss L when the unit
  goes (Molchanov et al., CVPR 2019, with the sum over the unit's weights inside the square);
- ``fisher``: ½ of the mean over examples of (Σ w·∂L/∂w)², the second-order change of the mean loss where its gradient
  is zero and its Hessian is the Fisher information (Theis et al., 2018, Faster gaze prediction … and Fisher pruning).

``taylor`` and ``fisher`` are in units of the loss, hence alike in all groups. The sums go over the unit's gates, see
``Sparsity``: zeros there make every channel of the unit zero. They are taken in eval mode, so that a network is judged
as it is used; what its batch norms and dropouts draw plays no part.

A residual block is rated by what the loss really changes by without it (``rate_blocks``), in the units of ``taylor``
and ``fisher``: its going is too large a step for a slope.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ecc.core.errors import InputError
from ecc.core.problem import Batches, Task
from ecc.core.widths import WidthGroup
from ecc.network.depth import bypassed
from ecc.solvers.evaluation import device_of, forward, moved, switch_off_dropout
from ecc.solvers.randomness import kept_generators, seed_generators
from ecc.solvers.sparsity import Sparsity

__all__ = ["CRITERIA", "Criterion", "curves_of", "rate", "rate_blocks"]

Criterion = Literal["l1", "l2", "taylor", "fisher"]
"""Names of importances."""

CRITERIA: tuple[str, ...] = get_args(Criterion)
"""The same as a tuple."""

_EXAMPLES = 256  # a pass forward and back each for fisher, so its time is bounded whatever the batch size


def rate(
    criterion: Criterion,
    model: nn.Module,
    groups: Sequence[WidthGroup],
    task: Task,
    *,
    batches: int = 8,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> list[Tensor]:
    """Importance of each group's units; the model, its gradients and torch's generator stay as they are.

    Frozen parameters count like others: without a unit the loss changes whether or not its weights could be trained.

    Args:
        criterion: A name of CRITERIA.
        groups: Of ``model``.
        task: Its training batches and loss; norms need neither.
        batches: Most training batches that are looked at; ``fisher`` takes at most 256 examples of them.
        seed: Of the loader's shuffling.
        device: Where to compute; where the model is when None.

    Returns:
        One float64 tensor (units,) per group, on the CPU, none of them negative.

    Raises:
        InputError: If the criterion is unknown, there are no batches, the loss is not finite, or it has no gradient by
            the weights of a group.
    """
    if criterion not in CRITERIA:
        raise InputError(f"importance {criterion!r} is unknown; choose from {', '.join(CRITERIA)}")
    if batches < 1:
        raise InputError(f"importance needs at least one batch, got batches={batches}")
    if criterion in ("l1", "l2"):
        sparsity = Sparsity(model, groups)
        norms = sparsity.magnitudes() if criterion == "l1" else [energy.sqrt() for energy in sparsity.energies()]
        return [norm.detach().double().cpu() for norm in norms]
    with torch.inference_mode(False), torch.enable_grad():
        copied = copy.deepcopy(model).to(device_of(model) if device is None else device)
        data = _first(task.train, batches)
        if criterion == "fisher":
            return [values / 2 for values in _squared_slopes(copied, groups, task.loss, _examples(data, batches), seed)]
        return [values.sqrt() for values in _squared_slopes(copied, groups, task.loss, data, seed)]


def rate_blocks(
    criterion: Criterion,
    model: nn.Module,
    blocks: Sequence[str],
    task: Task,
    *,
    batches: int = 8,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> Tensor:
    """Importance of residual blocks: what the loss changes by without each of them, all others there.

    ``taylor``: root of the mean over batches of the squared change; ``fisher``: the change of the mean loss, 0 where it
    falls.

    Args:
        criterion: ``taylor`` or ``fisher``; norms say nothing of a loss.
        blocks: Paths of modules that give back their input plus something.
        batches: Most training batches that are looked at.
        seed: Of the loader's shuffling.
        device: Where to compute; where the model is when None.

    Returns:
        float64, shape (n_blocks,), on the CPU, none of them negative.

    Raises:
        InputError: If the criterion is another one, there are no batches, or the loss is not finite.
    """
    if criterion not in ("taylor", "fisher"):
        raise InputError(f"importance {criterion} says nothing of the loss, so blocks need taylor or fisher")
    if batches < 1:
        raise InputError(f"importance needs at least one batch, got batches={batches}")
    copied = copy.deepcopy(model).to(device_of(model) if device is None else device)
    place = device_of(copied)
    networks = [copied, *(bypassed(copied, {block: False}) for block in blocks)]
    rows: list[list[float]] = []
    sizes: list[int] = []
    for network in networks:
        network.eval()
    with torch.no_grad(), kept_generators(place):
        seed_generators(place, seed)
        for inputs, targets in _first(task.train, batches):
            given, wanted = moved(inputs, place), targets.to(place)
            rows.append([float(task.loss(forward(network, given), wanted)) for network in networks])
            sizes.append(len(targets))
    if not rows:
        raise InputError("importance needs training batches, and the loader yields none")
    losses, weights = torch.tensor(rows, dtype=torch.float64), torch.tensor(sizes, dtype=torch.float64)
    if not bool(losses.isfinite().all()):
        raise InputError("the loss without a block is not finite on training batches; check the data and the weights")
    change = losses[:, 1:] - losses[:, :1]
    if criterion == "fisher":
        return (weights @ change / weights.sum()).clamp(min=0)
    return change.square().mean(0).sqrt()


def curves_of(importance: Sequence[Tensor]) -> list[Tensor]:
    """Loss of keeping the k most important units, for every k: the sum of the others' importance.

    Args:
        importance: One tensor (units,) per group.

    Returns:
        One float64 tensor (units + 1,) per group: falling in k, convex, 0 where all are kept.
    """
    curves = []
    for values in importance:
        rising = values.detach().double().cpu().sort().values
        curves.append(torch.cat([rising.new_zeros(1), rising.cumsum(0)]).flip(0))
    return curves


def _squared_slopes(
    model: nn.Module,
    groups: Sequence[WidthGroup],
    loss: Callable[[Tensor, Tensor], Tensor],
    data: Iterator[tuple[Any, Tensor]],
    seed: int,
) -> list[Tensor]:
    """Mean over ``data`` of each unit's squared slope; ``model`` is a copy that may be changed."""
    device = device_of(model)
    sparsity = Sparsity(model, groups)
    gates = _differentiable(sparsity)
    _to_eval(model)
    totals = [torch.zeros(group.units, dtype=torch.float64) for group in groups]
    count = 0
    with (
        torch.autocast(device.type, enabled=False),
        kept_generators(device),
        switch_off_dropout(model),
    ):
        seed_generators(device, seed)
        for inputs, targets in data:
            value = loss(forward(model, moved(inputs, device)), targets.to(device))
            gradients = _gradients(value, gates)
            if not count:
                _demand_gradients(sparsity, groups, gradients)
            for total, slope in zip(totals, sparsity.slopes(gradients), strict=True):
                total += slope.double().square().cpu()
            count += 1
    if not count:
        raise InputError("importance needs training batches, and the loader yields none")
    if not bool(torch.cat(totals).isfinite().all()):
        raise InputError("the loss or its gradient is not finite on training batches; check the data and the weights")
    return [total / count for total in totals]


def _differentiable(sparsity: Sparsity) -> list[Tensor]:
    """The gates' tensors, each once, now with gradients; integers have none."""
    tensors = dict.fromkeys(tensor for _, tensor in sparsity.gates if tensor.is_floating_point())
    return [tensor.requires_grad_() for tensor in tensors]


def _gradients(value: Tensor, gates: Sequence[Tensor]) -> dict[Tensor, Tensor]:
    """∂value/∂gate of those on which it depends."""
    if not value.requires_grad:
        return {}
    found = torch.autograd.grad(value, gates, allow_unused=True)
    return {gate: gradient for gate, gradient in zip(gates, found, strict=True) if gradient is not None}


def _demand_gradients(sparsity: Sparsity, groups: Sequence[WidthGroup], gradients: Mapping[Tensor, Tensor]) -> None:
    known = {number for number, tensor in sparsity.gates if tensor in gradients}
    for number, group in enumerate(groups):
        if number not in known:
            raise InputError(
                f"the loss has no gradient by the weights of group {group.name!r}, since the forward detaches or "
                "rounds them; rate units by l1 or l2, or take the group's layers out of pruning"
            )


def _to_eval(model: nn.Module) -> None:
    """Eval mode, but for recurrent layers: cuDNN gives no gradients there, and they differ in nothing but dropout."""
    model.eval()
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module.train()


def _first(batches: Batches, count: int) -> Iterator[tuple[Any, Tensor]]:
    """At most ``count`` batches; the loader is started when the first is asked for."""
    yield from islice(batches, count)


def _examples(batches: Iterator[tuple[Any, Tensor]], count: int) -> Iterator[tuple[Any, Tensor]]:
    """Single examples as batches of one, from the head of each batch."""
    share = -(-_EXAMPLES // count)
    for inputs, targets in batches:
        for row in range(min(share, len(targets))):
            yield _row(inputs, row, len(targets)), targets[row : row + 1]


def _row(inputs: Any, row: int, size: int) -> Any:
    if isinstance(inputs, tuple | list):
        return tuple(_row(item, row, size) for item in inputs)
    if not isinstance(inputs, Tensor):
        return inputs
    if not inputs.ndim or len(inputs) != size:
        raise InputError(
            f"fisher takes examples one by one along the first axis, and a batch has inputs of shape "
            f"{tuple(inputs.shape)} for {size} targets; put the examples first, or rate units by taylor"
        )
    return inputs[row : row + 1]
