"""Rows by importance: budgets in bytes and in loss, against uniform quantisation; importance; damaged forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from ecc.core.code import Workshop
from ecc.core.errors import InputError
from ecc.core.problem import Task
from ecc.stages.code import decode_node, packed
from ecc.stages.importance import row_importance
from ecc.stages.kinds import KINDS
from ecc.stages.multilevel import MultilevelProductQuant
from ecc.stages.nodes import Form, Numbers, Symbols
from ecc.stages.product_quant import PartSetting, encode_product

WORDS, SIZE, CLASSES = 400, 24, 5


class Bag(nn.Module):
    """Mean of embeddings and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(WORDS, SIZE, padding_idx=0)
        self.head = nn.Linear(SIZE, CLASSES)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.table(ids).mean(1))


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("nothing is trained")


@pytest.fixture
def shop() -> Workshop:
    """A network on words of which the first are by far the most frequent; labels are its own."""
    torch.manual_seed(0)
    model = Bag().eval()
    ids = (torch.rand(600, 8) ** 6 * (WORDS - 1)).long() + 1
    with torch.no_grad():
        labels = model(ids).argmax(1)
    task = Task([(ids[:400], labels[:400])], [(ids[400:], labels[400:])], nn.functional.cross_entropy, lambda y, t: 0.0)

    def judged(network: nn.Module) -> tuple[float, float]:
        with torch.no_grad():
            outputs = network(ids[400:])
        return float(nn.functional.cross_entropy(outputs, labels[400:])), float(
            (outputs.argmax(1) == labels[400:]).float().mean()
        )

    return Workshop(model, task, refuse, judged, (ids[:4],))


def moved(shop: Workshop, decoded: dict[str, torch.Tensor]) -> float:
    """Mean squared change of the outputs on the validation data."""
    (ids, _), *_ = shop.task.validation
    with torch.no_grad():
        after = torch.func.functional_call(shop.model, decoded, (ids,))
        return float((after - shop.model(ids)).square().mean())


@pytest.mark.parametrize("ratio", [5, 8, 14])
def test_tensors_are_as_many_times_smaller_as_asked(shop, ratio):
    state = shop.model.state_dict()
    code = MultilevelProductQuant(ratio=ratio, layers=("table.weight",)).encode(state, shop)
    reached = 4 * WORDS * SIZE / code.stored()["table.weight"].nbytes
    assert ratio <= reached < 1.12 * ratio
    assert (code.decode()["table.weight"][0] == 0).all()


def test_levels_by_importance_move_the_outputs_less_than_one_level_for_all(shop):
    state = shop.model.state_dict()
    form = encode_product(state["table.weight"], PartSetting(2, 8))
    uniform = moved(shop, state | {"table.weight": decode_node(form)})
    nbytes = replace(packed(state), nodes=packed(state).nodes | {"table.weight": form}).nbytes
    code = MultilevelProductQuant(nbytes=nbytes, layers=("table.weight",)).encode(state, shop)
    assert code.nbytes <= nbytes
    assert moved(shop, code.decode()) < 0.6 * uniform


def test_a_loss_budget_is_kept_and_spent(shop):
    state = shop.model.state_dict()
    dense = shop.evaluate(shop.model)[0]
    sizes = []
    for allowed in (0.002, 0.05):
        code = MultilevelProductQuant(max_loss=allowed).encode(state, shop)
        model = Bag()
        model.load_state_dict(code.decode())
        assert shop.evaluate(model.eval())[0] <= dense + allowed
        sizes.append(code.nbytes)
    assert sizes[1] < sizes[0] < packed(state).nbytes / 3


def test_output_importance_is_the_squared_jacobian_of_the_rows(shop):
    """Against the exact one: a row's gradient of each output, squared and summed."""
    code = packed(shop.model.state_dict())
    (ids, _), *_ = shop.task.train
    found = row_importance("outputs", code, ["table.weight", "head.weight"], shop)
    counts = torch.stack([torch.bincount(row, minlength=WORDS) for row in ids]).double() / ids.shape[1]
    exact = (counts.square().sum(0) * shop.model.head.weight.detach().double().square().sum() / SIZE).numpy()
    large = exact > np.quantile(exact, 0.9)
    assert np.corrcoef(found["table.weight"][1:][large[1:]], exact[1:][large[1:]])[0, 1] > 0.95
    assert found["table.weight"][large].sum() == pytest.approx(exact[large].sum(), rel=0.4)
    assert found["table.weight"][0] >= found["table.weight"].max()  # padding is read, though it has no gradient
    used = row_importance("uses", code, ["table.weight", "head.weight"], shop)
    assert np.allclose(np.diff(used["table.weight"]), np.diff(torch.bincount(ids.flatten(), minlength=WORDS).numpy()))
    assert (used["head.weight"] == 1).all()
    assert shop.model.table.weight.grad is None


def test_rows_nothing_depends_on_are_dropped_first(shop):
    with torch.no_grad():
        shop.model.table.weight[200:] = 1e-6
    code = MultilevelProductQuant(ratio=12, layers=("table.weight",)).encode(shop.model.state_dict(), shop)
    node = code.nodes["table.weight"]
    assert node.kind == "rows"
    dropped = node.parts["group"].values == 0
    assert dropped[200:].mean() > 0.5
    assert dropped[2:100].mean() < 0.2
    entries, bits = KINDS["rows"].operand(node)
    assert entries == SIZE * int((node.parts["group"].values > 0).sum())
    assert 1 <= bits <= 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 1.0}, "must be above 1, got 1.0"),
        ({"nbytes": 10, "max_loss": 0.1}, "nbytes or max_loss, not negative, and not both"),
        ({"levels": ("2y8",)}, r"^level '2y8' is none of"),
        ({"levels": ("log2",)}, "needs codes of 3 to 16 bits"),
        ({"levels": ("0x8",)}, "needs parts of at least 1"),
        ({"levels": ()}, "one level at least"),
        ({"importance": "love"}, "must be one of equal, uses, outputs, got 'love'"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        MultilevelProductQuant(**options)


def test_what_cannot_be_done_is_refused_in_a_sentence(shop):
    state = shop.model.state_dict()
    with pytest.raises(InputError, match=r"^importance 'outputs' is found on training data"):
        MultilevelProductQuant().encode(state)
    with pytest.raises(InputError, match=r"does not make the weights 20 times smaller: they take .* a smaller ratio"):
        MultilevelProductQuant(ratio=20, levels=("log8",), importance="equal").encode(state)
    code = MultilevelProductQuant(ratio=8, importance="equal").encode(state)
    with pytest.raises(InputError, match=r"finds no weights that are plain floats; apply it first$"):
        MultilevelProductQuant(ratio=8, importance="equal").encode(code)


def test_networks_of_few_weights_are_refused_in_a_sentence_with_what_they_take():
    state = nn.Linear(1, 1).state_dict()
    with pytest.raises(
        InputError, match=r"no smaller: they take 4 bytes as floats and [1-9]\d* with names and headers"
    ):
        MultilevelProductQuant(importance="equal").encode(state)
    with pytest.raises(InputError, match=r"makes no file of 20 bytes: it takes (\d+) bytes") as refused:
        MultilevelProductQuant(importance="equal", nbytes=20).encode(state)
    least = int(str(refused.value).split("it takes ")[1].split()[0])
    assert MultilevelProductQuant(importance="equal", nbytes=least).encode(state).nbytes == least


def test_constant_weights_are_stored():
    state = {"weight": torch.full((32, 64), 0.1)}
    code = MultilevelProductQuant(importance="equal").encode(state)
    assert torch.allclose(code.decode()["weight"], state["weight"], rtol=0.01)
    assert code.nbytes < 4 * 32 * 64 / 8


def test_groups_of_rows_come_back_in_their_places_and_damaged_ones_are_refused():
    values = torch.randn(5, 3)
    group = np.array([2, 0, 1, 2, 1], np.uint8)
    parts = {"group": Symbols(group, 3), "1": Numbers(values[[2, 4]]), "2": Numbers(values[[0, 3]])}
    form = Form("rows", (5, 3), torch.float32, {}, parts)
    values[1] = 0
    assert torch.equal(decode_node(form), values)
    for changed in (
        {"group": Symbols(group[:4], 3)},
        {"group": Symbols(np.array([1, 0, 1, 2, 1], np.uint8), 3)},
        {"1": Numbers(torch.zeros(2, 2))},
        {"3": Numbers(torch.zeros(1, 3))},
        {"2": Numbers(torch.zeros(2, 3, dtype=torch.int64))},
    ):
        with pytest.raises(InputError):
            decode_node(replace(form, parts=parts | changed))
