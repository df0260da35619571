"""What trace takes, a profile takes: tensors in dicts and tuples, however deep."""

import pytest
import torch
from torch import nn

import ecc
from ecc.core.errors import InputError
from ecc.profiler.window import Window

QUICK = Window(device_warm_up_s=0.0, warm_up_s=0.0, warm_up_runs=1, blocks=1, max_blocks=1, pairs=2, burst=1, idle_s=0)


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(8, 64), nn.Linear(64, 4)

    def forward(self, batch, scale=1):
        first = batch["x"][0] if isinstance(batch, dict) else batch[0]["x"]
        return self.head(self.hidden(first).relu()) * scale


X = torch.ones(3, 8)


@pytest.mark.parametrize(
    "inputs", [({"x": (X,)},), {"batch": {"x": [X]}, "scale": 2}, (({"x": X}, None), 2)], ids=["dict", "names", "tuple"]
)
def test_nested_inputs_are_profiled(monkeypatch, inputs):
    monkeypatch.setattr(Window, "of", classmethod(lambda cls, kind: QUICK))
    table = ecc.profile(Nested(), inputs, samples=4)
    assert len(table) == 4
    assert table.provenance.input_shape == (3, 8)


def test_inputs_without_a_tensor_are_refused():
    with pytest.raises(InputError, match=r"without a tensor$"):
        ecc.profile(Nested(), ({"x": (1,)},), samples=4)
