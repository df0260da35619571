"""Which layers are run in CSR follows from measurements; these are made up here."""

import json

import pytest
import torch
from torch import nn

from ecc.api.executing import sparse_execution
from ecc.cli.sparsity import execution_text
from ecc.core.errors import InputError
from ecc.network.input_masks import apply_masks
from ecc.network.sparse_layers import SparseConv2d, SparseLinear
from ecc.profiler.pairing import Estimate

INPUTS = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv1d(8, 8, 1),
        nn.Flatten(),
        nn.Linear(256, 32),
        nn.Linear(32, 10),
    )
    model[2] = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
    with torch.no_grad():
        for layer in (model[0], model[2], model[4]):
            layer.weight[torch.rand_like(layer.weight) < 0.9] = 0
    return model.eval()


def estimate(ratio, width=0.01):
    return Estimate(20, ratio, ratio - width, ratio + width, ratio * 1e-3, 1e-3)


def timed(ratios, whole=0.8):
    """A measure that gives each kind of layer its ratio, and whole networks theirs."""

    def measure(dense, sparse, inputs):
        return estimate(ratios.get(type(sparse), whole))

    return measure


def test_layers_are_run_in_csr_where_that_was_measured_faster():
    model = network()
    found = sparse_execution(model, INPUTS, measure=timed({SparseLinear: 0.5, SparseConv2d: 2.0}))
    assert found.layers["chosen"].to_dict() == {"0": False, "2": False, "4": True}
    assert found.layers["ratio"].dropna().to_dict() == {"0": 2.0, "4": 0.5}
    assert found.layers.loc["2", "reason"].startswith("its padding is reflect")
    assert found.layers.loc["4", "nonzeros"] == int(model[4].weight.count_nonzero())
    assert [type(layer) for layer in found.model] == [
        nn.Conv2d,
        nn.ReLU,
        nn.Conv2d,
        nn.Flatten,
        SparseLinear,
        nn.Linear,
    ]
    torch.testing.assert_close(found.model(INPUTS), model(INPUTS), rtol=1e-4, atol=1e-5)
    assert found.pays
    assert str(found) == "1 of 3 layers with zeros in CSR: 0.800 of the dense latency [0.790, 0.810]"
    assert isinstance(model[4], nn.Linear)
    json.dumps(found.to_json(), allow_nan=False)
    assert "CSR" in execution_text(found)


def test_an_interval_that_reaches_the_dense_latency_is_not_faster():
    found = sparse_execution(network(), INPUTS, measure=lambda *_: estimate(0.995, 0.01))
    assert not found.layers["chosen"].any()
    assert found.overall is None
    assert str(found) == "no layer of 3 with zeros is faster in CSR here; all stay dense"
    assert not any(isinstance(layer, SparseLinear | SparseConv2d) for layer in found.model.modules())
    json.dumps(found.to_json(), allow_nan=False)


def test_a_network_that_is_no_faster_as_a_whole_stays_dense():
    found = sparse_execution(network(), INPUTS, measure=timed({SparseLinear: 0.5, SparseConv2d: 0.5}, whole=1.0))
    assert not found.pays
    assert str(found).endswith("that is not faster, so all stay dense")
    assert not any(isinstance(layer, SparseLinear | SparseConv2d) for layer in found.model.modules())
    assert "CSR" not in execution_text(found).splitlines()[2]


def test_masked_inputs_stay_masked():
    mask = (torch.rand(256) < 0.5).float()
    model = apply_masks(network(), {"4": mask})
    found = sparse_execution(model, INPUTS, measure=timed({SparseLinear: 0.5, SparseConv2d: 0.5}))
    assert isinstance(found.model[4], SparseLinear)
    torch.testing.assert_close(found.model(INPUTS), model(INPUTS), rtol=1e-4, atol=1e-5)


def test_a_network_without_zeros_is_refused():
    with pytest.raises(InputError, match="has weights that are zero"):
        sparse_execution(nn.Linear(3, 2), torch.randn(1, 3))
