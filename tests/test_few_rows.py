"""Few rows: a model that is no better than MACs alone is not chosen, and says so where it was asked for."""

import numpy as np
import pytest
import torch
from oracles import made_up_cost, residual_net, simulated_profile

from ecc.core.layers import SumOfProducts
from ecc.energy_models import bilinear, judging
from ecc.energy_models.forms import FORMS
from ecc.energy_models.loading import load_cost as load
from ecc.energy_models.samples import Samples
from ecc.report.fits import render_fit


def macs_cost(kept):
    """A device whose time is a constant and a price per MAC."""
    space, layers = residual_net()
    counted = [layer for layer in layers if layer.macs]
    products = SumOfProducts(space, [(layer.reads, layer.writes) for layer in counted])
    macs = np.array([layer.macs for layer in counted], dtype=float)
    return 0.2 + 0.8 * products(torch.tensor(kept * np.array(space.dense))).numpy() @ (macs / macs.sum())


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(judging, "FORMS", {name: FORMS[name] for name in ("macs", "bilinear")})


def test_a_price_per_mac_is_found_and_kept_as_a_sum_of_terms(tmp_path):
    fitted = bilinear.fit_macs(Samples.of(simulated_profile(12, noise=1e-6, cost=macs_cost), "latency"))
    fresh = simulated_profile(200, noise=0.0, seed=9, cost=macs_cost)
    assert fitted(torch.tensor(fresh.widths)).numpy() == pytest.approx(fresh.rows["latency_s"].to_numpy(), rel=1e-4)
    fitted.save(tmp_path / "macs.json")
    assert load(tmp_path / "macs.json").coefficients == fitted.coefficients


@pytest.mark.parametrize("rows", [12, 20, 30, 60])
def test_auto_is_no_worse_than_macs_where_macs_are_all_there_is(quick, rows):
    for seed in range(3):
        table = simulated_profile(rows, noise=0.05, seed=seed, cost=macs_cost)
        fit = judging.judge(table, "latency", seed=seed)
        assert fit.form == "macs" or fit.holdout["mape"] < fit.macs_only
        if fit.form == "macs":
            assert fit.notes == (
                f"{rows} rows say no more than MACs do: this is a constant and a price per MAC; profile more samples",
            )


def test_auto_leaves_macs_behind_as_soon_as_the_rows_say_more(quick):
    fit = judging.judge(simulated_profile(60, noise=0.05, cost=made_up_cost), "latency")
    assert (fit.form, fit.notes) == ("bilinear", ())
    assert [each.form for each in fit.forms] == ["macs", "bilinear"]
    assert fit.forms[0].mape == pytest.approx(fit.macs_only)


def test_a_form_that_was_asked_for_says_that_it_is_no_better_than_macs():
    fit = judging.judge(simulated_profile(12, noise=0.05, cost=macs_cost), "latency", form="bilinear")
    assert fit.holdout["mape"] >= fit.macs_only
    (note,) = fit.notes
    assert note.startswith(f"held-out error {fit.holdout['mape']:.1%} is no better than that of MACs alone")
    assert fit.to_json()["notes"] == [note]
    assert note in render_fit(fit)
    assert judging.judge(simulated_profile(12, cost=macs_cost), "latency", form="macs").notes == ()


def test_the_page_of_macs_has_no_standard_errors_of_terms_that_were_not_fitted():
    table = simulated_profile(60, cost=macs_cost)
    page = render_fit(judging.judge(table, "latency", form="macs"), table)
    assert "share of the MACs" in page
    assert "Standard errors are those" not in page
