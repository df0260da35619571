import pytest

from ecc.api.targets import demand_single, labels_of, sets_of
from ecc.core.budget import Budget
from ecc.core.errors import InputError


def sets(*texts):
    return sets_of([Budget.parse_list(text) for text in texts])


def test_a_list_of_limits_is_a_set_for_each():
    assert sets("latency=0.7,0.5") == [(Budget("latency", 0.7),), (Budget("latency", 0.5),)]
    assert Budget.parse_list("latency<=70%, 50%") == (Budget("latency", 0.7), Budget("latency", 0.5))


def test_a_single_limit_holds_at_every_step_and_lists_go_together():
    found = sets("latency=0.7,0.5,0.3", "macs=0.9", "energy=0.9,0.8,0.7")
    assert [tuple(budget.limit for budget in each) for each in found] == [
        (0.7, 0.9, 0.9),
        (0.5, 0.9, 0.8),
        (0.3, 0.9, 0.7),
    ]


@pytest.mark.parametrize(
    ("texts", "labels"),
    [
        (["latency=0.5"], [""]),
        (["latency=0.7,0.5"], ["latency-0.70", "latency-0.50"]),
        (["latency=0.504,0.5"], ["latency-0.504", "latency-0.500"]),
        (["latency=0.7,0.5", "macs=0.6"], ["latency-0.70", "latency-0.50"]),
        (["latency=0.7,0.5", "macs=0.6,0.4"], ["latency-0.70-macs-0.60", "latency-0.50-macs-0.40"]),
        (["latency=5ms,3ms"], ["latency-0.005", "latency-0.003"]),
    ],
)
def test_labels_are_distinct_names_of_folders(texts, labels):
    assert labels_of(sets(*texts)) == labels


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([], "there is no budget"),
        (["latency=0.7,0.5", "macs=0.9,0.8,0.7"], "give as many"),
        (["latency=0.5,0.7"], "must fall"),
        (["latency=0.5,0.5"], "must fall"),
        (["latency=0.5,3ms"], "mix units"),
    ],
)
def test_lists_that_make_no_sense_are_refused(texts, words):
    with pytest.raises(InputError, match=words):
        sets(*texts)


@pytest.mark.parametrize("text", ["latency", "latency=", "latency=0.5,", "latency=,", "speed=0.5,0.3"])
def test_lists_that_are_no_budgets_are_refused(text):
    with pytest.raises(InputError):
        Budget.parse_list(text)


def test_several_sets_are_not_one():
    with pytest.raises(InputError, match="compress_path"):
        demand_single(sets("macs=0.7,0.5"))
