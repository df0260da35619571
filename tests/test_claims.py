"""What jobs claim of a cluster, and which cluster, as a job file says it."""

import tomllib

import pytest

from ecc.sweeps.claims import Claims, claims_of, ray_of
from ecc.sweeps.engines.ray_connection import Settings
from ecc.sweeps.entries import Entries, Mistakes
from ecc.sweeps.lines import lines_of


def read(text, part):
    """What a part of a job file says, and its mistakes."""
    mistakes = Mistakes("job.toml", lines_of(text))
    return part(Entries(tomllib.loads(text), (), mistakes)), sorted(mistakes.found)


def test_claims_are_read_with_the_names_of_the_cluster():
    found, mistakes = read('[resources]\ngpus = 0.5\nmemory = "1.5GB"\njetson = 1\n', claims_of)
    assert found == Claims(0.5, 1_500_000_000, {"jetson": 1.0})
    assert not mistakes
    assert read("", claims_of) == (Claims(), [])


def test_claims_of_a_network_go_before_those_of_the_file():
    file = Claims(1.0, 10, {"a": 1.0, "b": 1.0})
    assert Claims(None, 0, {"b": 2.0}).over(file) == Claims(1.0, 10, {"a": 1.0, "b": 2.0})
    assert Claims(0.0, 20).over(file) == Claims(0.0, 20, {"a": 1.0, "b": 1.0})


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("gpus = 1.5", "gpus must be a whole number or a part of one, got 1.5"),
        ("gpus = -1", "gpus must be a whole number or a part of one, got -1.0"),
        ('memory = "4"', "memory must be a text such as '4GB', got '4'"),
        ("memory = 4", "memory must be a text, got 4"),
        ('memory = "0GB"', "memory must be a text such as '4GB', got '0GB'"),
        ("cpus = 2", "cpus of a job is given as threads under [training]"),
        ("GPU = 1", "GPU of a job is given as gpus"),
        ("jetson = 0", "jetson must be a number above 0, got 0.0"),
        ('jetson = "one"', "jetson must be a number, got 'one'"),
    ],
)
def test_claims_that_cannot_be_are_named_with_their_line(line, told):
    assert read(f"[resources]\n\n{line}\n", claims_of)[1] == [(3, told)]


def test_the_cluster_is_read():
    text = '[ray]\naddress = "head:6379"\nattempts = 5\nwait_s = 0\nmixed_versions = true\n'
    assert read(text, ray_of) == (Settings("head:6379", attempts=5, wait_s=0.0, mixed_versions=True), [])
    assert read("", ray_of) == (Settings(), [])


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('adress = "auto"', "[ray] has no setting 'adress'"),
        ("attempts = 0", "attempts must be a whole number from 1, got 0"),
        ("wait_s = -1", "wait_s of Ray must be a number of seconds"),
        ('address = "head"', "'head' is no address of a Ray cluster"),
        ("mixed_versions = 1", "mixed_versions must be true or false, got 1"),
    ],
)
def test_what_the_cluster_cannot_be_is_named(line, told):
    ((_, sentence),) = read(f"[ray]\n{line}\n", ray_of)[1]
    assert sentence.startswith(told)
