"""Whether units fit on nodes, and whether nodes run the same programs."""

import pytest

from ecc.sweeps.engines.cluster import Needs, Node, differences, lacking, slots, versions

SMALL = Node("1", "small", {"CPU": 2.0, "memory": 4e9})
LARGE = Node("2", "large", {"CPU": 8.0, "GPU": 2.0, "memory": 64e9, "lab": 1.0})


def needs(cpus=1, gpus=0.0, memory_bytes=0, **resources):
    return Needs.of(cpus=cpus, gpus=gpus, memory_bytes=memory_bytes, resources=resources)


@pytest.mark.parametrize(
    ("wanted", "fits"),
    [
        (needs(), 10),
        (needs(3), 2),
        (needs(gpus=0.5), 4),
        (needs(gpus=0.1), 8),
        (needs(memory_bytes=16_000_000_000), 4),
        (needs(lab=1), 1),
        (needs(9), 0),
        (needs(other=1), 0),
    ],
    ids=str,
)
def test_units_fit_as_often_as_the_scarcest_resource_allows(wanted, fits):
    assert slots(wanted, [SMALL, LARGE]) == fits
    assert bool(lacking(wanted, [SMALL, LARGE], "it")) == (fits == 0)


def test_tenths_of_a_gpu_add_up():
    assert slots(needs(gpus=0.1), [Node("1", "one", {"CPU": 99.0, "GPU": 1.0})]) == 10


def test_what_is_lacking_is_named_with_the_most_there_is():
    told = lacking(needs(16, gpus=1, tpu=1), [SMALL, LARGE], "the cluster")
    assert told.startswith("no node of the cluster has 16 CPU, 1 GPU, 1 tpu for a unit (at most 8 CPU on large; no tpu")
    assert "at most 4 GB of memory on small" in lacking(needs(memory_bytes=8_000_000_000), [SMALL], "it")
    assert "each of them on some node, but not together" in lacking(
        needs(memory_bytes=8_000_000_000, other=1), [LARGE, Node("3", "third", {"CPU": 1.0, "other": 1.0})], "it"
    )
    assert lacking(needs(), [], "it") == "it has no node that is alive"


def test_other_versions_are_named_with_their_node():
    own = {"python": "3.11", "torch": "2.13.0"}
    assert differences(own, {"a": dict(own)}) == ""
    assert differences(own, {"a": own, "b": own | {"torch": "2.6.0"}}) == "torch 2.6.0 on b and 2.13.0 here"
    assert differences(own, {"c": {"missing": "No module named 'ecc'"}}) == (
        "c cannot import this package (No module named 'ecc')"
    )


def test_versions_name_what_decides_results():
    assert set(versions()) == {"python", "torch", "numpy", "ecc", "files of ecc"}
    assert "+" not in versions()["torch"]
