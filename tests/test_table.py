"""Tables say in one line what they hold."""

from dataclasses import replace

import pandas as pd
import torch
from torch import nn

import ecc
from ecc.core.operators import Operator
from ecc.core.table import OperatorTable, ProfileTable, Provenance
from ecc.profiler.operator_design import REFERENCE

PLACE = Provenance("net", "f00d", (1, 4), "Some CPU", "beef", runtime="eager", threads=2)
REFERENCE_VALUES = {"latency": (0.0012345, 0.0012, 0.0013), "energy": (0.5, 0.4, 0.6)}


def profile_table(rows: int = 200) -> ProfileTable:
    graph = ecc.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 4))
    frame = pd.DataFrame({"latency_ratio": [1.0] * rows})
    widths = torch.full((rows, len(graph.space.names)), 8).numpy()
    return ProfileTable(PLACE, graph.space, graph.layers, widths, frame, REFERENCE_VALUES)


def test_a_profile_is_printed_as_one_line_with_what_dense_takes():
    table = profile_table()
    assert f"{table}" == repr(table)
    groups = len(table.space.names)
    assert repr(table) == (
        f"ProfileTable(net, {groups} groups; Some CPU, eager, 2 threads; 200 rows; "
        "latency (dense 0.001234 s), energy (dense 0.5 J))"
    )


def test_a_profile_of_an_accelerator_has_no_threads_and_one_row_is_one_row():
    table = replace(profile_table(1), provenance=replace(PLACE, device="H200", threads=0), reference={})
    assert repr(table).endswith("; H200, eager; 1 row; nothing measured)")


def test_operators_are_printed_as_one_line():
    base: Operator = REFERENCE
    table = OperatorTable(PLACE, base, pd.DataFrame({"kind": [base.kind] * 3}), {"latency": (2e-3, 1e-3, 3e-3)})
    assert repr(table) == (
        f"OperatorTable(operators; Some CPU, eager, 2 threads; 3 rows; latency (base {base.kind} 0.002 s))"
    )
