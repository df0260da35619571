"""compose: from what operators cost on a device to the cost of a network that was never profiled there."""

from __future__ import annotations

from pathlib import Path

from ecc.api.fitting import known_operators
from ecc.core.errors import InputError
from ecc.core.table import OperatorTable
from ecc.energy_models import composition
from ecc.energy_models.additive import AdditiveCost
from ecc.energy_models.loading import load_cost
from ecc.network.graph import WidthGraph

__all__ = ["compose"]


def compose(
    graph: WidthGraph,
    operators: OperatorTable | str | Path,
    metric: str = "latency",
    *,
    network: str = "composed",
    like: AdditiveCost | str | Path | None = None,
) -> AdditiveCost:
    """The cost of a network from an operator profile alone; ``calibrate`` corrects it by rows of the network.

    Args:
        graph: What ``trace`` gave.
        operators: Operator profile of the device, or the file of its store.
        metric: One that was measured of the operators.
        network: Name for people.
        like: Additive cost of another network that was profiled on the device, or its file: what its rows say of the
            device is taken over.

    Raises:
        InputError: If an operator of the network was not profiled, or the measurements do not go together.
    """
    known = known_operators(operators)
    other = load_cost(like) if isinstance(like, str | Path) else like
    if other is not None and not isinstance(other, AdditiveCost):
        raise InputError(f"{str(like)!r} holds no additive cost; fit one with `ecc fit STORE --form additive`")
    if other is not None and (other.metric != metric or not other.samples):
        raise InputError(
            f"the additive cost of another network must be fitted to rows of {metric}; this one holds "
            f"{other.samples} rows of {other.metric}"
        )
    return composition.compose(graph, known, metric, name=network, like=other)
