"""MODEL and weight files: what loads, what it then scores, and how a file of the wrong kind is refused."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from ecc.core.errors import InputError
from ecc.data import load_data
from ecc.data.values import accuracy
from ecc.zoo.loading import load_model, load_weights
from ecc.zoo.networks import NETWORKS

FOLDER = os.environ.get("ECC_DATA")
needs_data = pytest.mark.skipif(not FOLDER, reason="ECC_DATA names no data folder")


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()


@pytest.fixture
def other():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).eval()


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["digits-resnet", "lstm-acoustic", "text-bow-match"])
def test_a_zoo_name_gives_a_network_and_an_example_it_reads(name):
    loaded = load_model(f"zoo:{name}")
    entry = NETWORKS[name]
    assert (loaded.name, loaded.input_shape, loaded.input_dtype) == (name, entry.input_shape, entry.input_dtype)
    assert not loaded.module.training
    example = loaded.example(3, seed=1)
    assert example.shape == (3, *entry.input_shape)
    assert torch.equal(example, loaded.example(3, seed=1))
    with torch.no_grad():
        assert loaded.module(example).shape[0] == 3


def test_options_reach_the_factory_and_the_example():
    loaded = load_model("zoo:text-bow", {"vocabulary": "50", "num_classes": "4", "width": "8"})
    example = loaded.example(64)
    assert 40 < example.max() < 50
    assert loaded.module(example).shape == (64, 4)
    assert load_model("zoo:digits-resnet", {"in_channels": "2"}).input_shape == (2, 8, 8)


def test_the_users_factory_in_a_file(tmp_path):
    path = tmp_path / "net.py"
    path.write_text("from torch import nn\ndef make(width=3):\n    return nn.Linear(2, width)\n")
    loaded = load_model(f"{path}:make", {"width": "5"})
    assert loaded.module.out_features == 5
    assert (loaded.name, loaded.input_shape) == ("make", None)
    assert not loaded.module.training
    with pytest.raises(
        InputError, match=r"^the input shape of make is not known; give it, for example --input 1x3x32x32$"
    ):
        loaded.example()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("zoo:resnet21", r"the zoo has no network 'resnet21'; did you mean resnet20 or resnet18 or resnet56\?"),
        ("zoo:MobileNet_V2", r"the zoo has no network 'MobileNet_V2'; did you mean mobilenet-v2 or mobilenet-v1\?"),
        ("zoo:", r"the zoo has no network ''; choose from alexnet, .*"),
        ("vgg16", r"model 'vgg16' names no factory; for the zoo's network write zoo:vgg16"),
        ("os:getcwd", r"model 'os:getcwd': the factory returned a str; it must return an nn.Module"),
    ],
    ids=lambda value: value if len(value) < 20 else "",
)
def test_a_model_that_is_none_is_refused(spec, message):
    with pytest.raises(InputError, match=f"^{message}$"):
        load_model(spec)


def test_an_option_that_a_network_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(
        InputError,
        match=r"^model 'zoo:resnet20' cannot be called with these options: got an unexpected keyword argument 'wdth'; "
        r"it takes num_classes, in_channels, width$",
    ):
        load_model("zoo:resnet20", {"wdth": "3"})


@pytest.mark.parametrize("nest", [None, "state_dict", "model_state_dict", "model"], ids="nest={}".format)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."], ids="prefix={}".format)
def test_torch_files_load_however_they_are_wrapped(net, other, tmp_path, nest, prefix):
    state = {prefix + name: tensor for name, tensor in other.state_dict().items()}
    torch.save(state if nest is None else {nest: state, "epoch": 3}, tmp_path / "w.pt")
    load_weights(net, tmp_path / "w.pt")
    assert same(net, other)


def test_safetensors_load_and_cast_to_the_networks_dtype(net, other, tmp_path):
    other.half()
    safetensors.torch.save_file(other.state_dict(), tmp_path / "w.safetensors")
    load_weights(net, tmp_path / "w.safetensors")
    assert net[0].weight.dtype == torch.float32
    assert torch.equal(net[0].weight, other[0].weight.float())


def test_old_files_without_batch_counters_load(net, other, tmp_path):
    state = {name: tensor for name, tensor in other.state_dict().items() if "num_batches" not in name}
    torch.save(state, tmp_path / "w.pt")
    load_weights(net, tmp_path / "w.pt")
    assert same(net, other)


def test_tied_weights_need_be_there_only_once(tmp_path):
    def tied() -> nn.Module:
        module = nn.ModuleDict({"embedding": nn.Embedding(5, 3), "head": nn.Linear(3, 5, bias=False)})
        module["head"].weight = module["embedding"].weight
        return module

    saved, loaded = tied(), tied()
    safetensors.torch.save_file({"embedding.weight": saved["embedding"].weight.detach()}, tmp_path / "w.safetensors")
    load_weights(loaded, tmp_path / "w.safetensors")
    assert torch.equal(loaded["head"].weight, saved["head"].weight)


def test_a_network_whose_own_names_begin_as_a_wrappers_keeps_them(tmp_path):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    saved, loaded = Net(), Net()
    torch.save(saved.state_dict(), tmp_path / "w.pt")
    load_weights(loaded, tmp_path / "w.pt")
    assert same(saved, loaded)


def broken_state(fault: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    if fault == "missing":
        return {name: tensor for name, tensor in state.items() if not name.startswith("2.")}
    if fault == "unexpected":
        return {**state, "3.weight": torch.zeros(1)}
    if fault == "shape":
        return {**state, "2.weight": torch.zeros(5, 4)}
    return {**state, "2.bias": torch.zeros(2, dtype=torch.int64)}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "missing",
            r"are of another network: 2 tensors missing \(2\.weight, 2\.bias\); give the weights of this network",
        ),
        ("unexpected", r"are of another network: 1 tensors not in the network \(3\.weight\); give the weights"),
        (
            "shape",
            r": 1 of 9 tensors do not fit, first 2\.weight with float32 of shape \(5, 4\) "
            r"where the network has float32 of shape \(2, 4\); build the network with the options of the weights$",
        ),
        (
            "kind",
            r": 1 of 9 tensors do not fit, first 2\.bias with int64 of shape \(2,\) where the network has float32",
        ),
    ],
)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_another_network_are_refused_and_nothing_is_copied(net, other, tmp_path, suffix, fault, message):
    state, path = broken_state(fault, other.state_dict()), tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(state, path)
    else:
        safetensors.torch.save_file(state, path)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(InputError, match=rf"^weights .*{message}"):
        load_weights(net, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


class Trap:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_code_never_runs(net, tmp_path):
    torch.save({"state_dict": Trap(tmp_path / "ran")}, tmp_path / "w.pt")
    with pytest.raises(
        InputError, match=r"hold pickled objects, which ecc never loads; save model\.state_dict\(\) alone"
    ):
        load_weights(net, tmp_path / "w.pt")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", [0, 1, 8, 100, -1], ids="keep={}".format)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_cut_files_are_refused(net, tmp_path, suffix, keep):
    path = tmp_path / f"w{suffix}"
    if suffix == ".pt":
        torch.save(net.state_dict(), path)
    else:
        safetensors.torch.save_file(net.state_dict(), path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"^weights .* (cannot be read|are corrupt)"):
        load_weights(net, path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, {"model": {"a": "text"}}], ids=repr)
def test_files_without_a_state_dict_are_refused(net, tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"hold no state dict of tensors; save model\.state_dict\(\)$"):
        load_weights(net, tmp_path / "w.pt")


def test_a_file_that_is_not_there_is_named(net, tmp_path):
    with pytest.raises(
        InputError, match=r"^weights .*gone\.pt: there is no such file; give a \.safetensors or \.pt file$"
    ):
        load_weights(net, tmp_path / "gone.pt")
    with pytest.raises(InputError, match=r"there is no such file"):
        load_weights(net, tmp_path)


@pytest.mark.parametrize("content", [b"", b"weights", b". hello", b"abc" * 20, b"torch weights, text"], ids=repr)
def test_a_file_that_is_none_of_torch_is_told_without_the_words_of_its_reader(net, tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"^weights .*w\.pt (cannot be read: they are damaged|are corrupt)") as told:
        load_weights(net, tmp_path / "w.pt")
    assert "Error" not in str(told.value)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_that_hold_nan_are_refused_by_the_name_of_their_file(net, tmp_path, suffix):
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    first = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[first].view(-1)[0] = float("nan")
    path = tmp_path / f"w.{suffix}"
    torch.save(state, path) if suffix == "pt" else safetensors.torch.save_file(state, path)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(
        InputError, match=rf"^weights .*w\.{suffix} hold NaN in 1 of \d+ tensors, first {re.escape(first)}"
    ):
        load_weights(net, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@needs_data
@pytest.mark.parametrize(
    ("network", "weights", "data", "correct"),
    [
        ("resnet20", "resnet20_cifar10", "cifar10-lossless", 227),  # of 249: 91.2 %
        ("lenet5-caffe", "lenet5_mnist", "mnist", 9919),
    ],
)
def test_published_weights_score_as_published(network, weights, data, correct):
    loaded = load_model(f"zoo:{network}", weights=f"{FOLDER}/weights/{weights}.safetensors")
    test = load_data(data, data_dir=FOLDER, batch_size=500).test
    with torch.no_grad():
        outputs, targets = zip(*((loaded.module(x), y) for x, y in test), strict=True)
    targets = torch.cat(targets)
    assert accuracy(torch.cat(outputs), targets) * len(targets) == pytest.approx(correct, abs=1)
