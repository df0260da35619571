import subprocess
import sys
from importlib import import_module

import pytest
from oracles import simulated_profile

import ecc


def test_public_names_are_sorted_and_each_has_one_home():
    assert list(ecc.__all__) == sorted(ecc.__all__)
    assert set(ecc.__all__) == set(ecc._HOME)


@pytest.mark.parametrize("name", ecc.__all__)
def test_public_name_is_what_its_module_exports(name):
    home = import_module(ecc._HOME[name])
    assert getattr(ecc, name) is getattr(home, name)
    assert name in home.__all__
    assert getattr(ecc, name).__doc__


def test_names_are_offered_before_they_are_used():
    code = "import ecc; print(set(ecc.__all__) <= set(dir(ecc)))"
    assert python(code) == "True"


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        ecc.prune  # noqa: B018


def test_import_loads_nothing_heavy():
    code = (
        "import ecc, sys; print([n for n in ('torch', 'numpy', 'pandas', 'scipy', 'matplotlib') if n in sys.modules])"
    )
    assert python(code) == "[]"


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_saved_cost_is_read_by_the_public_name_and_load_says_so(tmp_path):
    path = tmp_path / "cost.json"
    ecc.alexnet_tx2().save(path)
    cost = ecc.load_cost(path)
    assert isinstance(cost, ecc.BilinearCost)
    assert cost.coefficients == ecc.alexnet_tx2().coefficients
    with pytest.raises(ecc.InputError, match=r"cost.json' is a file and an artefact is a folder; ecc.load_cost reads"):
        ecc.load(path)


def test_diagnose_takes_a_profile_and_refuses_what_is_no_sum():
    table = simulated_profile(60)
    found = ecc.diagnose(ecc.fit(table, form="bilinear"), table)
    assert (found.coefficients.loc["constant", ["standard_error"]] > 0).all()
    with pytest.raises(ecc.InputError, match=r"diagnose\(cost=...\) must be a bilinear or staircase cost, got MlpCost"):
        ecc.diagnose(ecc.fit(table, form="mlp"), table)
