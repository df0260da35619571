"""The figure and the table of layers whose weights were pruned."""

import numpy as np
import pandas as pd
import pytest
import torch

from ecc.api.sparsity import Sparsity
from ecc.report.layers import layer_rows, layers_figure
from ecc.report.page import Report, pictures, render
from ecc.report.style import to_svg

PARTS = ("mac", "weights", "inputs", "outputs")


def table(names, energies=True):
    generator = np.random.default_rng(0)
    rows = {}
    for name in names:
        parts = generator.uniform(1e3, 1e6, 4)
        row = {"size": 1000, "nonzeros": 1000} | dict(zip(PARTS, parts, strict=True)) | {"total": parts.sum()}
        now = {"size": 1000, "nonzeros": 10} | dict(zip(PARTS, parts / 4, strict=True)) | {"total": parts.sum() / 4}
        rows[name] = {f"dense_{key}": value for key, value in row.items()} | now
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")
    return found if energies else found[["dense_size", "dense_nonzeros", "size", "nonzeros"]]


def test_bars_are_the_shares_and_energies_of_the_table():
    layers = table(["a", "b"])
    kept, energy = layers_figure(Sparsity("x", {}, layers, "e_RF")).axes
    assert [patch.get_width() for patch in kept.patches] == [1.0, 1.0, 0.01, 0.01]
    widths = np.array([patch.get_width() for patch in energy.patches]).reshape(2, 4, 2)  # before and now, part, layer
    np.testing.assert_allclose(widths[0].sum(0) * 1e6, layers["dense_total"])
    np.testing.assert_allclose(widths[1].sum(0) * 1e6, layers["total"])
    assert energy.get_xlabel().startswith("energy (M register accesses")
    assert [text.get_text().strip() for text in energy.texts] == ["-75 %", "-75 %"]


@pytest.mark.parametrize("unit", ["e_RF", "J", ""])
@pytest.mark.parametrize("n", [1, 60])
@pytest.mark.parametrize("masked", [True, False])
def test_every_kind_of_table_is_drawn(unit, n, masked):
    names = [f"features.{i}.convolution" for i in range(n)]
    masks = {names[0]: torch.tensor([1.0, 0.0])} if masked else {}
    sparsity = Sparsity("x", masks, table(names, energies=bool(unit)), unit)
    figure = layers_figure(sparsity)
    assert len(figure.axes) == (2 if unit else 1)
    assert len(figure.axes[0].get_yticklabels()) == min(n, 40)
    assert to_svg(figure).startswith("<svg")
    rows = layer_rows(sparsity)
    assert len(rows) == n
    assert rows[0]["inputs"] == (0.5 if masked else None)
    assert (rows[0]["after"] is None) == (not unit)


def test_layers_without_energy_or_weights_are_drawn():
    layers = table(["a", "$b$"])
    layers[[column for column in layers.columns if column not in ("dense_nonzeros", "nonzeros")]] = 0
    assert to_svg(layers_figure(Sparsity("x", {}, layers, "e_RF"))).startswith("<svg")


def test_names_of_layers_are_escaped_on_the_page():
    layers = table(["<script>alert(1)</script>"])
    report = Report(title="", sparsity=Sparsity("x", {}, layers, "e_RF"))
    page = render(report)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "layers.png" in pictures(report)
