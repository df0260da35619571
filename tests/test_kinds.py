"""Groups with one part in modules of one class are refused together, and only if the first and the last fail."""

from __future__ import annotations

import pytest
import torch
from network_cases import Net
from torch import Tensor, nn

from ecc.network.kinds import kinds
from ecc.network.tracing import trace


class Cell(nn.Module):
    """Insists on its own size if it is ``stiff``."""

    def __init__(self, stiff: bool) -> None:
        super().__init__()
        self.stiff = stiff
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)
        self.side = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x)
        return x + self.down(y.view(-1, 8) if self.stiff else y) + self.side(x)


def network(*stiff: bool) -> nn.Module:
    return Net(lambda s, x: s.head(s.cells(x)), cells=nn.Sequential(*map(Cell, stiff)), head=nn.Linear(6, 2))


def test_a_kind_is_a_class_and_a_place_in_it() -> None:
    names = ["cells.0.up", "cells.0.up@2", "cells.0.side.0", "head", "cells.1.up", "cells.1.side.0"]
    assert kinds(network(True, True), names) == [["cells.0.up", "cells.1.up"], ["cells.0.side.0", "cells.1.side.0"]]


@pytest.mark.parametrize(
    "stiff", [(True, True, True), (True, False, True, True), (True, False, False), (False, True, False)], ids=str
)
def test_what_insists_on_its_size_stays_and_the_rest_goes(stiff: tuple[bool, ...]) -> None:
    graph = trace(network(*stiff), torch.randn(2, 6))
    together = stiff[0] and stiff[-1]
    for i, own in enumerate(stiff):
        group = graph.group(f"cells.{i}.up")
        assert group.prunable == (not own and not together)
        assert group.prunable or "insists on its size" in group.reason
        assert graph.group(f"cells.{i}.side.0").prunable
