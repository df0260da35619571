"""NonzeroCost: how many parameters are not zero, as a cost of single weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor, nn

from ecc.core.cost import METRICS
from ecc.core.errors import InputError
from ecc.core.weights import Masks, Price, Prices
from ecc.energy_models.systolic.energy import counted
from ecc.energy_models.systolic.weights import stored_weights
from ecc.network.graph import WidthGraph

__all__ = ["NonzeroCost"]


@dataclass(frozen=True, eq=False)
class NonzeroCost:
    """The parameters that a forward needs and that are not zero.

    Each weight that a layer multiplies by has the price 1. Biases, norms and embeddings are counted whole: nothing
    makes them zero.

    Attributes:
        sizes: Of the tensors whose weights are priced, by name of the parameter, in order of execution.
        others: The count of all other parameters.
    """

    sizes: Mapping[str, int]
    others: int
    metric: str = field(default="params", init=False)

    @classmethod
    def of(cls, model: nn.Module, graph: WidthGraph) -> NonzeroCost:
        """The count of a network.

        Raises:
            InputError: If the graph is of another network, or no layer multiplies by a parameter.
        """
        names = [name for name in stored_weights(model, graph, counted(graph)[0]) if name]
        if not names:
            raise InputError("no layer of the network multiplies by a parameter, so there are no weights to count")
        sizes = {name: model.get_parameter(name).numel() for name in names}
        return cls(sizes, sum(parameter.numel() for parameter in model.parameters()) - sum(sizes.values()))

    @property
    def unit(self) -> str:
        """Of all values."""
        return METRICS[self.metric]

    @property
    def source(self) -> str:
        """Empty: a count is of the network and of no accelerator."""
        return ""

    @property
    def dense(self) -> float:
        """All parameters."""
        return float(sum(self.sizes.values()) + self.others)

    @property
    def inputs(self) -> Mapping[str, tuple[int, ...]]:
        """None: a masked input saves no parameter."""
        return {}

    def prices(self, masks: Masks) -> Prices:
        """1 each, whatever the masks."""
        return Prices({name: Price(1.0, 1.0) for name in self.sizes}, float(self.others))

    def input_prices(self, masks: Masks) -> Mapping[str, Tensor]:
        """None, as of ``inputs``."""
        return {}

    def exact(self, model: nn.Module, masks: Masks) -> float:
        """The count of the weights as they are, whatever the masks."""
        return float(self.others + int(self.table(model, masks)["nonzeros"].sum()))

    def table(self, model: nn.Module, masks: Masks) -> pd.DataFrame:
        """A row per tensor that is priced.

        Raises:
            InputError: If the network has no such tensor, or it is of another size.
        """
        rows = []
        parameters = dict(model.named_parameters())
        for name, size in self.sizes.items():
            if name not in parameters or parameters[name].numel() != size:
                raise InputError(f"the count is of another network: this one has no {name} of {size} weights")
            rows.append({"name": name, "nonzeros": int(torch.count_nonzero(parameters[name].detach())), "size": size})
        return pd.DataFrame(rows).set_index("name")
