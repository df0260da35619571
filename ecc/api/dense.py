"""Dense networks before they are compressed: trained where that is asked for, refused where they know nothing."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
from torch import nn

from ecc.api.weight_recipe import AnyRecipe
from ecc.core.errors import InputError
from ecc.core.problem import Checkpoint, Progress
from ecc.data.values import Data
from ecc.solvers.training import evaluate, train

__all__ = ["demand_trained", "pretrain"]

_LEARNED = 0.1  # of the way from chance to 1: random weights get that far by luck


def pretrain(
    model: nn.Module,
    data: Data,
    epochs: int,
    recipe: AnyRecipe,
    checkpoint: Checkpoint | None,
    progress: Progress | None,
) -> pd.DataFrame:
    """Train the dense network from where it is, as the method's tuning does but without a teacher.

    Returns:
        One row per epoch, as of ``train``; none where there are no epochs.
    """
    if epochs < 1:
        return pd.DataFrame()
    config = replace(recipe.tuning(epochs), distill=0.0)
    return train(model, data.task(), config, stage="pretrain", progress=progress, checkpoint=checkpoint)


def demand_trained(model: nn.Module, data: Data, *, mend: str) -> float:
    """The validation score of a dense network.

    Args:
        mend: What the user can do about it, for the message.
    Raises:
        InputError: If it is hardly better than guessing: then there is nothing that a compression could keep.
    """
    score = evaluate(model, data.validation, data.score)
    floor = 1 / data.classes if data.kind == "classification" else 0.0
    if not score > floor + _LEARNED * (1 - floor):
        raise InputError(
            f"the dense network scores {100 * score:.1f} % on {data.name}, hardly better than chance; {mend}"
        )
    return score
