"""The maps of the two large packages name every module in them, and nothing else."""

import importlib
import pkgutil
import re

import pytest


@pytest.mark.parametrize("package", ["ecc.network", "ecc.profiler"])
def test_the_map_of_a_package_names_its_modules(package: str) -> None:
    module = importlib.import_module(package)
    lines = [line for line in (module.__doc__ or "").splitlines() if line.startswith("    ")]
    named = {word for line in lines for word in re.findall(r"\w+\*?", re.sub(r"\(.*?\)", "", line.split(None, 1)[1]))}
    found = {info.name for info in pkgutil.iter_modules(module.__path__)}
    families = {name for name in found if any(name.startswith(word[:-1]) for word in named if word.endswith("*"))}
    assert found - families == {word for word in named if not word.endswith("*")} - families
