"""Distillation: how far a student's outputs are from those of its teacher."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ecc.core.errors import InputError

__all__ = ["distance"]


def distance(outputs: Tensor, wanted: Tensor, temperature: float | None) -> Tensor:
    """The distillation loss, in float32.

    Args:
        outputs: Of the student; logits (batch, classes, …) where a temperature is given.
        wanted: Of the teacher, same shape.
        temperature: T of T²·KL(softmax(wanted/T) ‖ softmax(outputs/T)), the mean over all but the classes (Hinton,
            Vinyals and Dean 2015: the factor keeps gradients as large as those of the task's loss); None for the mean
            squared error (ECC, CVPR 2019).

    Raises:
        InputError: If the shapes differ, or there are no classes to take a softmax over.
    """
    if outputs.shape != wanted.shape:
        raise InputError(
            f"the teacher's outputs have shape {tuple(wanted.shape)} and the network's {tuple(outputs.shape)}; "
            "distil from a teacher of the same outputs, or set distill=0"
        )
    if temperature is None:
        return F.mse_loss(outputs.float(), wanted.float())
    if outputs.ndim < 2 or outputs.shape[1] < 2:
        raise InputError(
            f"a temperature needs logits of at least 2 classes, got outputs of shape {tuple(outputs.shape)}; "
            "without a temperature the outputs themselves are compared"
        )
    ours, theirs = (F.log_softmax(logits.float() / temperature, 1) for logits in (outputs, wanted))
    divergence = F.kl_div(ours, theirs, reduction="none", log_target=True).sum(1)
    return temperature**2 * divergence.mean()
