"""Folding: the outputs stay what they were, and what cannot be folded stays with a reason."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ecc.core.code import Workshop
from ecc.core.errors import InputError, NothingToDo
from ecc.core.problem import Task
from ecc.stages.code import packed
from ecc.stages.edits import apply_edits
from ecc.stages.fold import Fold, fold
from ecc.stages.nodes import Form
from ecc.zoo.loading import load_model


def settled(model: nn.Module) -> nn.Module:
    """The network in eval mode, with statistics and parameters of norms that are none of their first values."""
    generator = torch.Generator().manual_seed(1)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.normal_(generator=generator)
            part.running_var.uniform_(0.5, 2.0, generator=generator)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(part.bias, generator=generator)
    return model.eval()


def gap(one: nn.Module, other: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        expected, found = one(x), other(x)
    return float((expected - found).abs().max() / expected.abs().max())


class Net(nn.Module):
    """Parts by name, and a forward that is given."""

    def __init__(self, forward, **parts):
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


FOLDS = {
    "linear": (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), (6, 5)),
    "linear without bias": (nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4)), (6, 5)),
    "conv1d": (nn.Sequential(nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4)), (2, 3, 9)),
    "conv2d padded": (nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)), (2, 3, 7, 7)),
    "conv3d": (nn.Sequential(nn.Conv3d(2, 4, 2), nn.BatchNorm3d(4)), (2, 2, 4, 4, 4)),
    "grouped": (nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6)), (2, 4, 7, 7)),
    "depthwise": (nn.Sequential(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)), (2, 4, 7, 7)),
    "transposed": (nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6)), (2, 4, 5, 5)),
    "transposed, grouped": (
        nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False), nn.BatchNorm2d(6)),
        (2, 4, 5, 5),
    ),
    "without affine": (nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), (2, 3, 7, 7)),
    "before linear": (nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4)), (6, 5)),
    "before conv": (nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2, bias=False)), (2, 4, 7, 7)),
    "behind relu": (nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 3)), (6, 5)),
    "dropout in between": (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.ReLU()), (6, 5)),
}


@pytest.mark.parametrize(("model", "shape"), FOLDS.values(), ids=FOLDS)
def test_a_norm_folds_into_its_neighbour_and_the_outputs_stay(model, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = fold(settled(model), x)
    assert len(made.folded) == 1
    assert gap(model, made.model, 3 * x + 1) < 1e-5
    assert not any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in made.model.modules())


def test_a_norm_on_both_sides_and_one_behind_another_fold_in_turn():
    parts = [nn.BatchNorm1d(5), nn.Linear(5, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.ReLU()]
    model, x = settled(nn.Sequential(*parts)), torch.randn(6, 5)
    made = fold(model, x)
    assert sorted(made.folded) == ["0", "2", "3"]
    assert gap(model, made.model, x) < 1e-5


def test_the_network_that_was_given_is_untouched():
    model = settled(nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fold(model, torch.randn(2, 1, 5, 5))
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def normalised(padding: int) -> nn.Module:
    class Normalise(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("mu", torch.tensor([0.5, -1.0, 2.0]))
            self.register_buffer("sigma", torch.tensor([2.0, 0.25, 3.0]))

        def forward(self, x):
            return (x - self.mu.view(1, 3, 1, 1)) / self.sigma.view(1, 3, 1, 1)

    return nn.Sequential(Normalise(), nn.Conv2d(3, 4, 3, padding=padding)).eval()


def test_an_input_normalisation_folds_by_the_closed_form():
    model, x = normalised(0), torch.randn(2, 3, 6, 6)
    made = fold(model, x)
    weight, bias = model[1].weight.double(), model[1].bias.double()
    mu, sigma = model[0].mu.double(), model[0].sigma.double()
    expected = weight / sigma.view(1, 3, 1, 1)
    assert made.folded == ("0",)
    torch.testing.assert_close(made.model[1].weight.double(), expected, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        made.model[1].bias.double(), bias - (expected * mu.view(1, 3, 1, 1)).sum((1, 2, 3)), rtol=1e-5, atol=1e-6
    )


def test_padding_with_zeros_keeps_a_shift_out_of_the_layer_behind():
    made = fold(normalised(1), torch.randn(2, 3, 6, 6))
    assert made.folded == ()
    assert made.left == {"0": "the layer behind it pads with zeros, which are not what it makes of zero"}


def test_a_scale_without_a_shift_goes_through_padding():
    model, x = normalised(1), torch.randn(2, 3, 6, 6)
    model[0].mu.zero_()
    made = fold(model, x)
    assert made.folded == ("0",)
    assert gap(model, made.model, x) < 1e-5


def test_a_constant_input_without_spread_is_not_divided_by_zero():
    model = normalised(0)
    model[0].sigma[1] = 0
    with pytest.raises(InputError, match="NaN"):
        fold(model, torch.cat([torch.randn(2, 1, 6, 6), torch.full((2, 1, 6, 6), -1.0), torch.randn(2, 1, 6, 6)], 1))


def shared_norm(net, x):
    return net.norm(net.one(x)) + net.norm(net.two(x))


def read_by_two(net, x):
    y = net.one(x)
    return net.norm(y) + y


def layer_twice(net, x):
    return net.norm(net.one(net.one(x)))


def activation_between(net, x):
    return net.norm(F.relu(net.one(x))).relu()


def functional(net, x):
    y = net.one(x)
    return F.batch_norm(y, net.norm.running_mean, net.norm.running_var, net.norm.weight, net.norm.bias)


LEFT = {
    "shared norm": (shared_norm, {}, "it runs more than once"),
    "input read elsewhere": (read_by_two, {}, "something else reads its input, too"),
    "layer that runs twice": (layer_twice, {}, "the weights before it are used elsewhere"),
    "activation in between": (activation_between, {}, "relu is before it"),
    "norm of the batch": (
        lambda net, x: net.norm(net.one(x)),
        {"norm": nn.BatchNorm1d(5, track_running_stats=False)},
        "it normalises by the statistics of the batch",
    ),
}


@pytest.mark.parametrize(("forward", "parts", "why"), LEFT.values(), ids=LEFT)
def test_what_cannot_be_folded_stays_with_a_reason(forward, parts, why):
    model = Net(forward, **{"one": nn.Linear(5, 5), "two": nn.Linear(5, 5), "norm": nn.BatchNorm1d(5), **parts})
    made = fold(settled(model), torch.randn(6, 5))
    assert made.folded == ()
    assert list(made.left) == ["norm"]
    assert made.left["norm"].startswith(why)
    assert gap(model, made.model, torch.randn(6, 5)) == 0


def test_a_norm_in_the_forward_itself_stays():
    model = settled(Net(functional, one=nn.Linear(5, 5), norm=nn.BatchNorm1d(5)))
    assert fold(model, torch.randn(6, 5)).folded == ()


def test_tied_weights_stay():
    one, two = nn.Linear(5, 5), nn.Linear(5, 5)
    two.weight = one.weight
    model = settled(Net(lambda net, x: net.two(net.norm(net.one(x))), one=one, two=two, norm=nn.BatchNorm1d(5)))
    made = fold(model, torch.randn(6, 5))
    assert made.folded == ()
    assert made.left["norm"].startswith("the weights before it are used elsewhere")


def test_a_norm_along_another_axis_than_the_channels_of_a_layer_stays():
    model = settled(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(3)))  # of (batch, 3, 5): the norm is of axis 1
    assert fold(model, torch.randn(2, 3, 5)).folded == ()


def test_a_norm_with_hooks_stays():
    model = settled(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    model[1].register_forward_hook(lambda *_: None)
    assert fold(model, torch.randn(6, 5)).left == {"1": "it has forward hooks"}


def test_a_layer_whose_weights_are_computed_stays_as_it_is():
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(5, 4))
    made = fold(settled(nn.Sequential(layer, nn.BatchNorm1d(4))), torch.randn(6, 5))
    assert made.folded == ()


def test_what_changes_outputs_behind_the_record_is_found_by_comparing_them():
    class Odd(nn.Linear):
        def forward(self, x):
            if self.weight.is_meta or float(self.weight.detach().sum()) == self.sum:
                return F.linear(x, self.weight, self.bias)
            return F.linear(x, self.weight, self.bias) + 1

    odd = Odd(5, 4)
    odd.sum = float(odd.weight.detach().sum())
    made = fold(settled(nn.Sequential(odd, nn.BatchNorm1d(4), nn.Linear(4, 3), nn.BatchNorm1d(3))), torch.randn(6, 5))
    assert made.folded == ("3",)
    assert made.left == {"1": "the outputs change if it is folded"}


class Scores(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.body, self.last = nn.Linear(5, 4), last

    def forward(self, x):
        return self.last(self.body(x))


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(-1)], ids=["softmax", "log-softmax"])
def test_a_last_softmax_goes_where_only_the_winner_matters(last):
    model, x = Scores(last).eval(), torch.randn(50, 5)
    assert fold(model, x).folded == ()
    made = fold(model, x, winner_only=True)
    assert made.folded == ("last",)
    assert torch.equal(made.model(x).argmax(1), model(x).argmax(1))
    torch.testing.assert_close(made.model(x), model.body(x))


def test_a_softmax_inside_the_network_stays():
    model = nn.Sequential(nn.Linear(5, 4), nn.Softmax(1), nn.Linear(4, 3)).eval()
    assert fold(model, torch.randn(6, 5), winner_only=True).folded == ()


@pytest.mark.parametrize("name", ["resnet20", "mobilenet-v2"])
def test_every_norm_behind_a_convolution_of_a_network_folds(name):
    options = {"width": "8"} if name == "resnet20" else {"width": "0.35"}
    model = settled(load_model(f"zoo:{name}", options).module)
    made = fold(model, torch.randn(2, 3, 32, 32))
    assert made.left == {}
    assert not any(isinstance(part, nn.BatchNorm2d) for part in made.model.modules())
    assert gap(model, made.model, torch.randn(2, 3, 32, 32)) < 1e-4


def workshop(model: nn.Module, x: torch.Tensor) -> Workshop:
    task = Task([], [], F.mse_loss, lambda outputs, targets: 0.0)
    return Workshop(model, task, lambda *_, **__: None, lambda _: (0.0, 0.0), (x,))


def test_the_code_holds_the_folded_state_and_what_was_done_to_the_structure():
    model, x = settled(nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2))), torch.randn(2, 1, 5, 5)
    code = Fold().encode(model.state_dict(), workshop(model, x))
    assert list(code.decode()) == ["0.weight", "0.bias"]
    assert code.edits == ({"edit": "bias", "path": "0"}, {"edit": "identity", "path": "1"})
    rebuilt = apply_edits(model, code.edits)
    rebuilt.load_state_dict(code.decode())
    assert gap(model, rebuilt, x) < 1e-5


def test_folding_what_is_coded_already_is_refused():
    model, x = settled(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))), torch.randn(6, 4)
    code = packed(model.state_dict())
    form = Form("codebook", (4, 4), torch.float32, {}, {})
    coded = type(code)({**code.nodes, "0.weight": form})
    with pytest.raises(InputError, match=r"'0\.weight' is coded already, and folding would undo that; fold first"):
        Fold().encode(coded, workshop(model, x))


def test_nothing_to_fold_is_said_with_the_reasons():
    model = settled(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4)))
    with pytest.raises(NothingToDo, match=r"nothing to fold in Sequential .2 stays: relu is before it"):
        Fold().encode(model.state_dict(), workshop(model, torch.randn(6, 4)))
    with pytest.raises(InputError, match="give a workshop"):
        Fold().encode(model.state_dict())
