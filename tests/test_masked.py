"""Weights and inputs under one budget: masks are 0 or 1, budgets hold, and those below the floor of weights are met."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from ranks_toy import together
from solver_toy import digits_task
from weight_cases import energy, network, posed

from ecc.core.errors import InputError, Interrupted
from ecc.core.problem import Status
from ecc.core.weights import WeightConstraint
from ecc.network.input_masks import apply_masks
from ecc.network.unread import Influence
from ecc.solvers.checkpoints import FileCheckpoint
from ecc.solvers.hooks import Step
from ecc.solvers.training import TrainConfig, evaluate, train
from ecc.solvers.weights.input_masks import InputMasks, least_spent, masked_layers, without_influence
from ecc.solvers.weights.mask_rounds import MaskCut
from ecc.solvers.weights.masked_sgd import MaskedProjectedSgd
from ecc.solvers.weights.projected_sgd import ProjectedSgd

TASK = digits_task(flat=False)
SHORT = TrainConfig(epochs=2, lr=5e-3, dropout=False, checkpoint_every_s=1e9)
SEARCHES = {
    "together": MaskedProjectedSgd(training=SHORT),
    "rounds": MaskedProjectedSgd(training=SHORT, search="rounds", rounds=2, mask_epochs=1),
}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trained():
    model = network()
    train(model, TASK, TrainConfig(epochs=8, lr=5e-3, distill=0.0))
    return model.eval()


def floor(model):
    """What weights alone can reach, relative to dense."""
    cost = energy(model)
    return cost.prices({}).constant / cost.dense


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


# -- the masks


class Additive:
    """A cost whose inputs have given prices."""

    metric, dense = "energy", 100.0

    def __init__(self, prices):
        self._prices = prices

    @property
    def inputs(self):
        return {name: tuple(price.shape) for name, price in self._prices.items()}

    def prices(self, masks):
        class Found:
            constant = 3.0 + sum(
                float((price * masks[name]).sum() if name in masks else price.sum())
                for name, price in self._prices.items()
            )

        return Found

    def input_prices(self, masks):
        return self._prices


def masks_with(scores, prices):
    cost = Additive({name: torch.tensor(price, dtype=torch.float64) for name, price in prices.items()})
    inputs = InputMasks(
        (WeightConstraint(cost, 1.0),), {name: torch.ones(shape) for name, shape in cost.inputs.items()}, CPU
    )
    for name, mask in inputs.values.items():
        mask.grad = torch.tensor(scores[name]).sqrt()
    inputs.note()
    return inputs


numbers = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=2, max_size=9)


@settings(max_examples=60, deadline=None)
@given(entries=numbers, room=st.integers(0, 60))
def test_the_projection_by_energy_is_the_densest_prefix_that_fits(entries, room):
    assume(len({score / price for score, price in entries}) == len(entries))  # ties go by rounding
    half = len(entries) // 2
    parts = {"a": entries[:half], "b": entries[half:]}
    parts = {name: part for name, part in parts.items() if part}
    inputs = masks_with(
        {name: [float(score) for score, _ in part] for name, part in parts.items()},
        {name: [float(price) for _, price in part] for name, part in parts.items()},
    )
    inputs.keep([3.0 + room])
    kept = torch.cat(list(inputs.masks.values())).tolist()
    order = sorted(range(len(entries)), key=lambda i: -entries[i][0] / entries[i][1])
    spent = list(itertools.accumulate(entries[i][1] for i in order))
    assert {i for i, flag in enumerate(kept) if flag} == {i for i, s in zip(order, spent, strict=True) if s <= room}


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.integers(0, 5), min_size=2, max_size=8), count=st.integers(0, 8))
def test_the_projection_by_count_is_the_nearest_point(values, count):
    inputs = masks_with({"a": [1.0] * len(values)}, {"a": [1.0] * len(values)})
    trained_values = torch.tensor(values) / 5
    with torch.no_grad():
        inputs.values["a"].copy_(trained_values)
    inputs.keep_largest(count)
    found = inputs.masks["a"]
    assert int((found != 0).sum()) <= count
    points = (
        torch.where(torch.tensor([i in chosen for i in range(len(values))]), trained_values, 0.0)
        for chosen in itertools.combinations(range(len(values)), min(count, len(values)))
    )
    best = min(float((point - trained_values).square().sum()) for point in points)
    assert float((found - trained_values).square().sum()) == pytest.approx(best, abs=1e-6)


def test_masks_in_training_stay_between_0_and_1_and_dropped_ones_are_the_smallest():
    inputs = masks_with({"a": [1.0] * 50}, {"a": [1.0] * 50})
    hook, generator = MaskCut(inputs, 30, every=4), torch.Generator().manual_seed(0)
    optimizer = torch.optim.SGD(list(inputs.values.values()), lr=1.0)
    for index in range(12):
        with torch.no_grad():
            inputs.values["a"].add_(torch.randn(50, generator=generator))
        hook.after_step(Step(optimizer, 1.0, index, 12))
        assert bool(((inputs.values["a"] >= 0) & (inputs.values["a"] <= 1)).all())
        if (index + 1) % 4 == 0:
            assert int((inputs.values["a"] > 0).sum()) <= 30
    inputs.round()
    assert set(inputs.masks["a"].tolist()) <= {0.0, 1.0}


# -- what they cost


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), share=st.floats(0, 1), zeros=st.floats(0, 1))
def test_the_bound_behind_masks_is_never_below_the_exact_energy(seed, share, zeros):
    model, generator = network(), torch.Generator().manual_seed(seed)
    cost = energy(model)
    masks = {name: (torch.rand(shape, generator=generator) > share).float() for name, shape in cost.inputs.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(torch.rand(parameter.shape, generator=generator) > zeros)
    counts = {name: int(torch.count_nonzero(model.get_parameter(name))) for name in cost.prices({}).tensors}
    bound, loose = cost.prices(masks).of(counts), cost.prices({})
    assert cost.exact(model, masks) <= bound * (1 + 1e-12)
    assert bound <= cost.prices(masks).constant + sum(
        price.of(counts[name]) for name, price in loose.tensors.items()
    ) * (1 + 1e-12)


def test_the_price_of_an_input_is_what_masking_it_saves():
    cost, generator = energy(network()), torch.Generator().manual_seed(0)
    masks = {name: (torch.rand(shape, generator=generator) > 0.3).float() for name, shape in cost.inputs.items()}
    prices, spent = cost.input_prices(masks), cost.prices(masks).constant
    for name, mask in masks.items():
        for place in torch.nonzero(mask)[::7]:
            fewer = mask.clone()
            fewer[tuple(place)] = 0
            saved = spent - cost.prices({**masks, name: fewer}).constant
            assert saved == pytest.approx(float(prices[name][tuple(place)]), rel=1e-9)


# -- what has no influence


def test_what_goes_without_influence_changes_no_output_and_saves_energy(trained):
    model = ProjectedSgd(training=SHORT).solve(posed(0.3, model=trained, task=TASK)).model.eval()
    cost, x = energy(model), next(iter(TASK.validation))[0]
    masks = {name: torch.ones(shape) for name, shape in cost.inputs.items()}
    before, spent = apply_masks(model, masks)(x), cost.exact(model, masks)
    fewer = without_influence(model, list(cost.prices({}).tensors), masks, x)
    assert fewer is not None
    torch.testing.assert_close(apply_masks(model, fewer)(x), before)
    assert cost.exact(model, fewer) < spent


def test_nothing_goes_where_outputs_would_change(monkeypatch):
    model, x = network().eval(), torch.randn(4, 1, 8, 8)
    cost = energy(model)
    masks = {name: torch.ones(shape) for name, shape in cost.inputs.items()}

    nothing = Influence(
        {"0.weight": torch.zeros(8, 1, 3, 3)}, {name: torch.zeros_like(mask) for name, mask in masks.items()}
    )
    monkeypatch.setattr("ecc.solvers.weights.input_masks.influence", lambda *_: nothing)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert without_influence(model, ["0.weight"], masks, x) is None
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# -- the method


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("part", [0.5, 1.4], ids=["below the floor of weights", "above it"])
def test_budgets_hold_and_masks_are_0_or_1(trained, search, part):
    limit = part * floor(trained)
    problem = posed(limit, model=trained, task=TASK)
    found = SEARCHES[search].solve(problem)
    (constraint,) = problem.constraints
    assert found.status is Status.MET
    assert found.spent["energy"] <= constraint.limit
    assert constraint.cost.exact(found.model, found.masks) <= found.spent["energy"] * (1 + 1e-12)
    assert {value for mask in found.masks.values() for value in mask.unique().tolist()} <= {0.0, 1.0}
    assert {name: tuple(mask.shape) for name, mask in found.masks.items()} == dict(constraint.cost.inputs)


def test_a_network_below_the_floor_of_weights_still_tells_digits_apart(trained):
    method = MaskedProjectedSgd(training=TrainConfig(epochs=5, lr=5e-3, dropout=False))
    found = method.solve(posed(0.9 * floor(trained), model=trained, task=TASK))
    score = evaluate(apply_masks(found.model, found.masks), TASK.validation, TASK.score)
    assert score > 0.4
    assert score == pytest.approx(found.history["score"].iloc[-1], abs=1e-9)


def test_the_problem_stays_as_it_is(trained):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    for method in SEARCHES.values():
        method.solve(posed(0.2, model=trained, task=TASK))
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    assert all(parameter.requires_grad for parameter in trained.parameters())
    assert not any(part._forward_pre_hooks for part in trained.modules())


@pytest.mark.parametrize("search", SEARCHES)
def test_equal_seeds_find_equal_networks(trained, search):
    one, other = (SEARCHES[search].solve(posed(0.2, model=trained, task=TASK, seed=3)) for _ in range(2))
    assert equal(one.model, other.model)
    assert all(torch.equal(mask, other.masks[name]) for name, mask in one.masks.items())


class PressAt:
    def __init__(self, *presses):
        self.presses = set(presses)

    def __call__(self, stage, done, total, note=""):
        if (stage, done) in self.presses:
            self.presses.remove((stage, done))
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("search", "presses"),
    [
        ("together", [("masked-sgd", 4), ("masked-sgd", 17)]),
        ("rounds", [("weights-0", 3), ("masks-1", 4), ("weights-1", 2), ("masks-2", 9), ("weights-2", 5)]),
    ],
)
def test_an_interrupted_solve_goes_on_to_the_same_bits(trained, tmp_path, search, presses):
    method, problem = SEARCHES[search], posed(1.4 * floor(trained), model=trained, task=TASK)
    stages = []
    whole = method.solve(problem, progress=lambda stage, *_: stages.append(stage))
    press = PressAt(*(each for each in presses if each[0] in stages))
    for _ in range(len(press.presses)):
        with pytest.raises(Interrupted):
            method.solve(problem, progress=press, checkpoint=FileCheckpoint(tmp_path / "state"))
    for _ in range(2):
        resumed = method.solve(problem, progress=press, checkpoint=FileCheckpoint(tmp_path / "state"))
        assert equal(whole.model, resumed.model)
        assert all(torch.equal(mask, resumed.masks[name]) for name, mask in whole.masks.items())
        assert whole.history.drop(columns="seconds").equals(resumed.history.drop(columns="seconds"))


@pytest.mark.parametrize("search", SEARCHES)
def test_processes_end_with_one_network_and_its_masks(trained, tmp_path, search):
    def work(rank):
        found = SEARCHES[search].solve(posed(0.2, model=trained, task=digits_task(64, flat=False)))
        return {"model": found.model.state_dict(), "masks": dict(found.masks), "spent": dict(found.spent)}

    one, other = together(work, tmp_path)
    for part in ("model", "masks"):
        assert all(torch.equal(one[part][name], tensor) for name, tensor in other[part].items())
    assert one["spent"] == other["spent"]


@pytest.mark.parametrize("search", SEARCHES)
def test_training_that_diverges_is_told_of_by_the_loop(trained, search):
    training = TrainConfig(epochs=3, lr=1e30, optimizer="sgd", dropout=False)
    with pytest.raises(InputError, match="stopped being a finite number"):
        replace(SEARCHES[search], training=training).solve(posed(0.4, model=trained, task=TASK))


def test_a_checkpoint_of_other_settings_is_begun_anew(trained, tmp_path):
    problem, checkpoint = posed(0.2, model=trained, task=TASK), FileCheckpoint(tmp_path / "state")
    for method in SEARCHES.values():
        method.solve(problem, checkpoint=checkpoint)
        other = replace(method, inputs=0.3)
        assert equal(other.solve(problem, checkpoint=checkpoint).model, other.solve(problem).model)


def test_inputs_that_are_masked_already_stay_so(trained):
    problem = posed(0.2, model=trained, task=TASK)
    mask = torch.ones(1, 8, 8)
    mask[:, :, :3] = 0
    problem = type(problem)(problem.model, problem.task, problem.constraints, 0, {"0": mask})
    for method in SEARCHES.values():
        assert float(method.solve(problem).masks["0"][:, :, :3].sum()) == 0


def test_a_limit_on_weights_left_holds_beside_the_energy(trained):
    problem = posed(0.3, 0.3, model=trained, task=TASK)
    found = MaskedProjectedSgd(training=SHORT).solve(problem)
    assert found.status is Status.MET
    for constraint in problem.constraints:
        assert constraint.cost.exact(found.model, found.masks) <= constraint.limit * (1 + 1e-12)


def test_budgets_below_all_floors_are_refused_with_the_floor(trained):
    problem = posed(0.01, model=trained, task=TASK)
    (constraint,) = problem.constraints
    lowest = least_spent(constraint, masked_layers(problem, torch.zeros(1, 1, 8, 8))) / constraint.cost.dense
    for method in SEARCHES.values():
        with pytest.raises(InputError, match=rf"all inputs masked that can be, .* \({lowest:.4f}\) are left"):
            method.solve(problem)


def test_costs_without_inputs_are_refused(trained):
    with pytest.raises(
        InputError, match="masking inputs takes nothing off params; choose a method that prunes weights"
    ):
        MaskedProjectedSgd().solve(posed(None, 0.5, model=trained, task=TASK))


@pytest.mark.parametrize(
    "wrong", [{"inputs": 0.0}, {"inputs": math.nan}, {"search": "no"}, {"rounds": 0}, {"every": 0}, {"mask_epochs": 0}]
)
def test_settings_without_sense_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(InputError, match=rf"MaskedProjectedSgd\({name}=...\) must be "):
        MaskedProjectedSgd(**wrong)
