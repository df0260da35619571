"""Every network of the zoo against its publication: sizes, operations, key layouts, and what a pruner relies on."""

from __future__ import annotations

from decimal import Decimal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.core.errors import InputError
from ecc.network.tracing import trace
from ecc.zoo.loading import load_model
from ecc.zoo.networks import NETWORKS, Network
from ecc.zoo.resnet_cifar import PadShortcut
from ecc.zoo.vit import Attention

PUBLISHED = {  # parameters, multiply-accumulates; as printed by the source that the register names
    "alexnet": ("61100840", "0.714e9"),
    "densenet121": ("7978856", "2.834e9"),
    "lenet-300-100": ("266610", "266e3"),
    "lenet5": ("61706", None),
    "lenet5-caffe": ("431080", "2293e3"),
    "mobilenet-v1": ("4.2e6", "569e6"),
    "mobilenet-v2": ("3504872", "0.301e9"),
    "resnet18": ("11689512", "1.814e9"),
    "resnet20": ("0.27e6", "4.06e7"),
    "resnet50": ("25557032", "4.089e9"),
    "resnet56": ("0.85e6", "1.25e8"),
    "squeezenet": ("1248424", "0.819e9"),
    "vgg16": ("138357544", "15.47e9"),
    "vit-small": ("22.05e6", "4.6e9"),
}
EXACT = {  # parameters, multiply-accumulates of convolutions, linear layers and attention, counted by hand
    "digits-resnet": (375_242, 9_512_192),
    "gru-acoustic": (3 * 128 * (40 + 128 + 2) + 3 * 128 * (128 + 128 + 2) + 1290, None),
    "lenet5": (61_706, 416_520),
    "lstm-acoustic": (4 * 128 * (40 + 128 + 2) + 4 * 128 * (128 + 128 + 2) + 1290, None),
    "mobilenet-v1": (4_231_976, 568_740_352),
    "resnet20": (269_722, 40_551_040),
    "resnet56": (853_018, 125_485_696),
    "vit-small": (22_050_664, None),
}
KEYS = {  # the last tensors of the common layouts, and the first that could be misnamed
    "alexnet": {"features.10.weight": (256, 256, 3, 3), "classifier.1.weight": (4096, 9216)},
    "densenet121": {
        "features.denseblock3.denselayer24.conv2.weight": (32, 128, 3, 3),
        "features.transition2.conv.weight": (256, 512, 1, 1),
        "features.norm5.running_var": (1024,),
    },
    "mobilenet-v2": {
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.18.1.weight": (1280,),
        "classifier.1.weight": (1000, 1280),
    },
    "resnet18": {"layer2.0.downsample.0.weight": (128, 64, 1, 1), "layer4.1.bn2.weight": (512,)},
    "resnet20": {"layer3.2.conv2.weight": (64, 64, 3, 3), "linear.weight": (10, 64)},
    "resnet50": {"layer1.0.downsample.1.weight": (256,), "layer4.2.conv3.weight": (2048, 512, 1, 1)},
    "squeezenet": {"features.12.expand3x3.weight": (256, 64, 3, 3), "classifier.1.weight": (1000, 512, 1, 1)},
    "vgg16": {"features.28.weight": (512, 512, 3, 3), "classifier.6.weight": (1000, 4096)},
    "vit-small": {
        "pos_embed": (1, 197, 384),
        "patch_embed.proj.weight": (384, 3, 16, 16),
        "blocks.11.attn.qkv.weight": (1152, 384),
        "head.weight": (1000, 384),
    },
}
SMALL = {  # an input that every layer can still read, where the register's is large
    "alexnet": (3, 64, 64),
    "densenet121": (3, 32, 32),
    "mobilenet-v1": (3, 32, 32),
    "mobilenet-v2": (3, 32, 32),
    "resnet18": (3, 32, 32),
    "resnet50": (3, 32, 32),
    "squeezenet": (3, 32, 32),
    "vgg16": (3, 32, 32),
}
BIG = ("alexnet", "vgg16")  # seconds to build; their counts are taken on the meta device

every = pytest.mark.parametrize("name", list(NETWORKS))
light = pytest.mark.parametrize("name", [name for name in NETWORKS if name not in BIG])


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def inputs(entry: Network, batch: int, shape: tuple[int, ...] | None = None) -> Tensor:
    size = (batch, *(shape or SMALL.get(entry.name, entry.input_shape)))
    return torch.randint(1, entry.vocabulary, size) if entry.vocabulary else torch.randn(size)


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-accumulates of one example by watching each convolution, linear layer and attention run."""
    total = 0

    def watch(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Linear):
            total += output[0].numel() * module.in_features
        elif isinstance(module, Attention):
            tokens = arguments[0].shape[1]
            total += 2 * tokens * tokens * module.proj.in_features

    hooks = [module.register_forward_hook(watch) for module in model.modules()]
    model(example)
    for hook in hooks:
        hook.remove()
    return total


def on_meta(name: str) -> tuple[nn.Module, Tensor]:
    entry = NETWORKS[name]
    with torch.device("meta"):
        return entry.factory().eval(), torch.zeros((1, *entry.input_shape), dtype=entry.input_dtype)


def printed(count: int, figure: str) -> Decimal:
    """A count with as many digits as the figure has."""
    digits = len(Decimal(figure).as_tuple().digits)
    return Decimal(f"{Decimal(count):.{digits - 1}e}")


@pytest.mark.parametrize("name", list(PUBLISHED))
def test_sizes_are_the_published_ones(name):
    model, example = on_meta(name)
    params, macs = PUBLISHED[name]
    assert printed(sum(p.numel() for p in model.parameters()), params) == Decimal(params)
    if macs is not None:
        assert printed(count_macs(model, example), macs) == Decimal(macs)
    entry = NETWORKS[name]
    assert (entry.params, entry.macs) == (float(params), None if macs is None else float(macs))


@pytest.mark.parametrize("name", list(EXACT))
def test_sizes_are_those_counted_by_hand(name):
    model, example = on_meta(name)
    params, macs = EXACT[name]
    assert sum(p.numel() for p in model.parameters()) == params
    assert macs is None or count_macs(model, example) == macs


@pytest.mark.parametrize(
    "name", ["digits-resnet", "lenet5", "mobilenet-v2", "resnet20", "squeezenet", "text-cnn-match"]
)
def test_the_width_graph_counts_what_runs(name):
    model, example = NETWORKS[name].factory().eval(), inputs(NETWORKS[name], 1)
    graph = trace(model, example)
    assert graph.macs() == count_macs(model, example)
    assert graph.params() == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("name", "gates"), [("lstm-acoustic", 4), ("gru-acoustic", 3)])
def test_each_recurrent_layer_has_a_width_of_its_own(name, gates):
    graph = trace(NETWORKS[name].factory().eval(), inputs(NETWORKS[name], 1))
    assert graph.macs() == 64 * gates * 128 * (40 + 128 + 128 + 128) + 1280
    assert graph.space.dense == (128, 128)


def test_a_figure_without_a_publication_is_not_given():
    for name, entry in NETWORKS.items():
        assert (entry.params is not None) == (name in PUBLISHED)
        assert entry.source


@pytest.mark.parametrize("name", list(KEYS))
def test_keys_are_those_of_published_weights(name):
    state = on_meta(name)[0].state_dict()
    assert {key: tuple(state[key].shape) for key in KEYS[name]} == KEYS[name]


@light
def test_a_fresh_network_tells_examples_apart(name):
    """Without this a check of outputs would compare numbers that are all bias."""
    entry = NETWORKS[name]
    with torch.no_grad():
        outputs = entry.factory().eval()(inputs(entry, 4))
    assert outputs.shape[0] == 4
    assert outputs.isfinite().all()
    assert outputs.std(0).max() > 1e-3 * outputs.abs().mean()


@light
def test_options_set_outputs_and_inputs(name):
    if name.endswith("-match"):
        options = {"width": "16"}
    else:
        options = {"num_classes": "3", **dict.fromkeys(NETWORKS[name].sets, "5")}
    if name == "vit-small":
        options |= {"image_size": "32", "depth": "1"}
    loaded = load_model(f"zoo:{name}", options)
    shape = SMALL.get(name, loaded.input_shape)
    example = inputs(NETWORKS[name], 2, (loaded.input_shape[0], *shape[1:]))
    with torch.no_grad():
        outputs = loaded.module(example)
    assert outputs.shape == (2, 1 if name.endswith("-match") else 3)


@every
@pytest.mark.parametrize("value", [0, -1, 2.5, "many", True], ids=repr)
def test_sizes_that_no_network_can_have_are_refused(name, value):
    option = "width" if name.endswith("-match") else "num_classes"
    with pytest.raises(InputError, match=rf"^{name}: option {option} must be an integer of at least 1, got "):
        NETWORKS[name].factory(**{option: value})


@pytest.mark.parametrize("width", [0, -1.0, float("nan"), float("inf"), "wide"], ids=repr)
@pytest.mark.parametrize("name", ["mobilenet-v1", "mobilenet-v2"])
def test_multipliers_are_positive_numbers(name, width):
    with pytest.raises(InputError, match=rf"^{name}: option width must be a number above 0, got "):
        NETWORKS[name].factory(width=width)


def test_odd_widths_and_uneven_patches_are_refused():
    with pytest.raises(InputError, match=r"^resnet20: option width must be even"):
        NETWORKS["resnet20"].factory(width=15)
    with pytest.raises(
        InputError, match=r"^vit-small: option image_size \(225\) must be a multiple of patch_size \(16\)"
    ):
        NETWORKS["vit-small"].factory(image_size=225)


def test_multiplier_gives_the_published_thin_mobilenet():
    with torch.device("meta"):
        thin = NETWORKS["mobilenet-v1"].factory(width=0.5)
    assert printed(sum(p.numel() for p in thin.parameters()), "1.3e6") == Decimal("1.3e6")  # the paper's table 6


def test_pad_shortcut_takes_every_second_pixel_and_pads_channels():
    x = torch.randn(2, 3, 5, 4)
    out = PadShortcut(2, 1, 2)(x)
    assert out.shape == (2, 6, 3, 2)
    assert torch.equal(out[:, 1:4], x[:, :, [0, 2, 4]][..., [0, 2]])
    assert not out[:, [0, 4, 5]].any()


def test_attention_is_torchs():
    ours, x = Attention(192).eval(), torch.randn(2, 7, 192)
    torchs = nn.MultiheadAttention(192, num_heads=3, batch_first=True).eval()
    with torch.no_grad():
        torchs.in_proj_weight.copy_(ours.qkv.weight)
        torchs.in_proj_bias.copy_(ours.qkv.bias)
        torchs.out_proj.load_state_dict(ours.proj.state_dict())
        torch.testing.assert_close(ours(x), torchs(x, x, x, need_weights=False)[0], rtol=1e-5, atol=1e-6)


def test_a_head_of_zeros_can_be_cut_out_of_attention():
    attention, x = Attention(192).eval(), torch.randn(2, 7, 192)
    kept = torch.cat([torch.arange(64), torch.arange(128, 192)])
    smaller = Attention(192).eval()
    smaller.qkv, smaller.proj = nn.Linear(192, 384), nn.Linear(128, 192)
    with torch.no_grad():
        attention.proj.weight[:, 64:128] = 0
        rows = torch.cat([kept, kept + 192, kept + 384])
        smaller.qkv.weight.copy_(attention.qkv.weight[rows])
        smaller.qkv.bias.copy_(attention.qkv.bias[rows])
        smaller.proj.weight.copy_(attention.proj.weight[:, kept])
        smaller.proj.bias.copy_(attention.proj.bias)
        torch.testing.assert_close(smaller(x), attention(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["text-bow-match", "text-cnn-match"])
def test_a_matcher_does_not_mind_the_order_of_its_texts(name):
    pair = inputs(NETWORKS[name], 3)
    matcher = NETWORKS[name].factory().eval()
    with torch.no_grad():
        torch.testing.assert_close(matcher(pair), matcher(pair.flip(1)))


def test_padding_adds_no_words_to_a_bag():
    ids = inputs(NETWORKS["text-bow"], 3, (5,))
    bag = NETWORKS["text-bow"].factory().eval()
    with torch.no_grad():
        torch.testing.assert_close(bag(F.pad(ids, (0, 27))), bag(ids))
        assert bag(torch.zeros(1, 32, dtype=torch.int64)).isfinite().all()


@pytest.mark.parametrize("name", ["digits-resnet", "lstm-acoustic"])
def test_one_seed_gives_one_network(name):
    states = []
    for _ in range(2):
        torch.manual_seed(7)
        states.append(NETWORKS[name].factory().state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_demo_network_has_every_coupling():
    model = NETWORKS["digits-resnet"].factory()
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    assert any(c.groups == c.in_channels == c.out_channels > 1 for c in convolutions)
    assert any(c.kernel_size == (1, 1) and c.stride == (2, 2) for c in convolutions)
    assert any(isinstance(module, nn.Linear) for module in model.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
