"""Readers: what they give on small files of the right form, on the real folder, and how they fail."""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch.nn import functional as F

from ecc.core.errors import InputError
from ecc.data import Data, TensorBatches, load_data
from ecc.data.images import CropAndFlip, Normalise
from ecc.data.loading import READERS
from ecc.data.speech import FEATURES, FRAMES, log_mel
from ecc.data.splits import hold_out
from ecc.data.text import LENGTH, VOCABULARY, Vocabulary
from ecc.data.values import accuracy, mean_squared_error, rank_correlation
from ecc.zoo.networks import NETWORKS

FOLDER = os.environ.get("ECC_DATA")
needs_data = pytest.mark.skipif(not FOLDER, reason="ECC_DATA names no data folder")
RANDOM = np.random.default_rng(0)


def idx(values: np.ndarray) -> bytes:
    return bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes() + values.tobytes()


def write_mnist(folder: Path, pack: bool = True) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 48), ("t10k", 7)):
        images = RANDOM.integers(0, 256, (count, 28, 28), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 4
        for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{part}-{kind}-ubyte{'.gz' if pack else ''}"
            path.write_bytes(gzip.compress(idx(values), 1) if pack else idx(values))


def jpeg(image: np.ndarray) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=95, subsampling=0)
    return stream.getvalue()


def cifar_jpeg_arrays() -> dict[str, np.ndarray]:
    arrays = {}
    for part, count in (("train", 20), ("test", 4)):
        grey = [np.full((32, 32, 3), 10 * i, np.uint8) for i in range(count)]
        files = [jpeg(image) for image in grey]
        arrays[f"{part}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{part}_offset"] = np.cumsum([0, *map(len, files)])
        arrays[f"{part}_label"] = np.arange(count, dtype=np.uint8) % 10
    return arrays


def cifar_lossless_arrays() -> dict[str, np.ndarray]:
    arrays = {}
    for part, count in (("train", 20), ("test", 4)):
        arrays[f"{part}_image"] = RANDOM.integers(0, 256, (count, 32, 32, 3), np.uint8)
        arrays[f"{part}_label"] = np.arange(count, dtype=np.uint8) % 10
    return arrays


def write_cifar_binary(folder: Path) -> None:
    folder = folder / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        records = RANDOM.integers(0, 256, (4, 3073), np.uint8)
        records[:, 0] = np.arange(4)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def fsdd_arrays() -> dict[str, np.ndarray]:
    lengths = RANDOM.integers(1000, 18000, 30)
    return {
        "samples": RANDOM.integers(-3000, 3000, lengths.sum()).astype(np.int16),
        "offset": np.concatenate([[0], np.cumsum(lengths)]),
        "label": (np.arange(30) % 10).astype(np.uint8),
        "index": (np.arange(30) % 15).astype(np.uint8),
        "sample_rate": np.int32(8000),
    }


def write_csv(path: Path, header: list[str], rows: list[list[str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def write_banking(folder: Path) -> None:
    rows = [[f"where is my {thing}, number {i}?", thing] for thing in ("card", "money") for i in range(20)]
    write_csv(folder / "banking77_train.csv", ["text", "category"], rows)
    write_csv(folder / "banking77_test.csv", ["text", "category"], [["My card!", "card"]])


def write_clinc(folder: Path) -> None:
    rows = [[part, f"call me a {thing}", thing] for part in ("train", "val", "test") for thing in ("taxi", "nurse")]
    write_csv(folder / "clinc150.csv", ["split", "text", "intent"], [*rows, ["oos_test", "call me names", "oos"]])


def write_stsb(folder: Path) -> None:
    for part in ("train", "dev", "test"):
        rows = [["a plane is taking off", "an air plane, taking off", "5.0"], ["a cat", f"no {part}", "0.25"]]
        write_csv(folder / f"stsb_en_{part}.csv", ["sentence1", "sentence2", "score"], rows)


@pytest.fixture
def folder(tmp_path):
    """Every data set, small and of the right form."""
    for name in ("mnist", "fashion-mnist"):
        write_mnist(tmp_path / name, pack=name == "mnist")
    (tmp_path / "cifar10").mkdir()
    np.savez_compressed(tmp_path / "cifar10" / "cifar10_jpeg.npz", **cifar_jpeg_arrays())
    np.savez_compressed(tmp_path / "cifar10" / "cifar10_lossless_subset.npz", **cifar_lossless_arrays())
    write_cifar_binary(tmp_path / "cifar10")
    (tmp_path / "fsdd").mkdir()
    np.savez_compressed(tmp_path / "fsdd" / "fsdd.npz", **fsdd_arrays())
    write_banking(tmp_path / "text")
    write_clinc(tmp_path / "text")
    write_stsb(tmp_path / "text")
    return tmp_path


def sound(data: Data) -> None:
    """What every Data promises, of the first batches of each part."""
    for loader in (data.train, data.validation, data.test):
        for inputs, targets in islice(loader, 5):
            assert inputs.shape == (len(targets), *data.input_shape)
            if data.kind == "classification":
                assert targets.dtype == torch.int64
                assert 0 <= targets.min() <= targets.max() < data.classes
            else:
                assert targets.dtype == torch.float32
                assert 0 <= targets.min() <= targets.max() <= 1
            if data.vocabulary:
                assert 0 <= inputs.min() <= inputs.max() < data.vocabulary
            else:
                assert inputs.dtype == torch.float32
                assert inputs.isfinite().all()
    assert torch.equal(data.example(1), next(iter(data.validation))[0][:1])
    assert data.task().train is data.train


@pytest.mark.parametrize("name", list(READERS))
def test_readers_keep_their_promises_on_small_files(folder, name):
    data = load_data(name, data_dir=folder, batch_size=7)
    sound(data)
    assert data.name == ("cifar10-binary" if name == "cifar10" else name)


@needs_data
@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("digits", (1258, 270, 269)),
        ("mnist", (54_999, 5_001, 10_000)),
        ("fashion-mnist", (55_000, 5_000, 10_000)),
        ("cifar10-lossless", (3_601, 399, 249)),
        ("fsdd", (2_400, 300, 300)),
        ("banking77", (9_000, 1_003, 3_080)),
        ("clinc150", (15_000, 3_000, 4_500)),
        ("stsb", (5_749, 1_500, 1_379)),
    ],
)
def test_readers_keep_their_promises_on_the_real_folder(name, sizes):
    data = load_data(name, data_dir=FOLDER, batch_size=1000)
    sound(data)
    assert tuple(len(part.targets) for part in (data.train, data.validation, data.test)) == sizes
    if data.kind == "classification":
        assert torch.equal(data.test.targets.unique(), torch.arange(data.classes))


@needs_data
@pytest.mark.parametrize(
    ("name", "at_least"), [("fashion-mnist", 0.6), ("fsdd", 0.3), ("banking77", 0.5), ("clinc150", 0.5)]
)
def test_targets_belong_to_their_examples(name, at_least):
    """The nearest class mean guesses far better than chance only if no row slipped."""
    data = load_data(name, data_dir=FOLDER, batch_size=1000)

    def features(batches: TensorBatches) -> torch.Tensor:
        rows = torch.cat([inputs.flatten(1) for inputs, _ in batches])
        if data.vocabulary:
            rows = F.normalize(torch.zeros(len(rows), data.vocabulary).scatter_(1, rows, 1.0)[:, 2:])
        return rows

    known, labels = features(data.validation), data.validation.targets
    means = torch.stack([known[labels == label].mean(0) for label in range(data.classes)])
    guesses = torch.cdist(features(data.test), means).argmin(1)
    assert (guesses == data.test.targets).float().mean() > at_least


def test_digits_need_no_folder_and_are_normalised(monkeypatch):
    monkeypatch.delenv("ECC_DATA", raising=False)
    data = load_data("digits")
    sound(data)
    images = data.train.inputs
    assert images.mean().abs() < 1e-5
    assert images.std() == pytest.approx(1, abs=1e-3)
    shares = torch.stack([part.targets.bincount() / len(part.targets) for part in (data.train, data.test)])
    torch.testing.assert_close(shares[0], shares[1], atol=0.01, rtol=0)


def test_no_example_is_in_two_parts():
    """Digits hold no two equal images, so equal rows would be one image in two parts."""
    data = load_data("digits")
    parts = [{image.numpy().tobytes() for image in part.inputs} for part in (data.train, data.validation, data.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1797


@pytest.mark.parametrize("fraction", [0.01, 0.3, 0.99])
def test_hold_out_splits_every_class_alike_and_always_so(fraction):
    labels = RANDOM.integers(0, 3, 301)
    labels[0] = 7  # a class of one example stays
    kept, held = hold_out(labels, fraction)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(301))
    assert 0 in kept
    for label in range(3):
        expected = np.clip(round(fraction * (labels == label).sum()), 1, (labels == label).sum() - 1)
        assert (labels[held] == label).sum() == expected
    assert all(map(np.array_equal, hold_out(labels, fraction), (kept, held)))


def test_seed_does_not_move_the_parts(folder):
    first, second = (load_data("mnist", data_dir=folder, seed=seed) for seed in (0, 1))
    assert torch.equal(first.validation.inputs, second.validation.inputs)


def test_idx_bytes_arrive_in_order_and_normalised(folder):
    data = load_data("mnist-32", data_dir=folder)
    raw = gzip.decompress((folder / "mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    image = np.frombuffer(raw, np.uint8).reshape(-1, 28, 28)[3]
    given = next(iter(data.test))[0][3, 0]
    expected = (np.pad(image, 2) / 255 - 0.1307) / 0.3081
    np.testing.assert_allclose(given, expected, atol=1e-6)


def test_folder_of_one_data_set_and_environment_both_work(folder, monkeypatch):
    monkeypatch.setenv("ECC_DATA", str(folder / "fashion-mnist"))
    assert load_data("fashion-mnist").name == "fashion-mnist"


def test_cifar_takes_the_best_pack_that_is_there(folder):
    import shutil

    names = []
    for gone in (None, "cifar-10-batches-bin", "cifar10_lossless_subset.npz", "cifar10_jpeg.npz"):
        if gone is not None:
            path = folder / "cifar10" / gone
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if gone != "cifar10_jpeg.npz":
            names.append(load_data("cifar10", data_dir=folder).name)
    assert names == ["cifar10-binary", "cifar10-lossless", "cifar10-jpeg"]
    with pytest.raises(
        InputError, match=r"^there is no cifar-10-batches-bin, .* give the folder that holds one of them"
    ):
        load_data("cifar10", data_dir=folder)
    (folder / "cifar10" / "cifar-10-batches-py").mkdir()
    with pytest.raises(InputError, match=r"holds pickles, which ecc never loads; get CIFAR-10's binary version"):
        load_data("cifar10", data_dir=folder)


def test_cifar_packs_give_the_planes_in_order(folder):
    path = folder / "cifar10" / "cifar-10-batches-bin" / "test_batch.bin"
    record = np.frombuffer(path.read_bytes()[:3073], np.uint8)
    assert np.array_equal(load_data("cifar10", data_dir=folder).test.inputs[0].flatten(), record[1:])
    arrays = np.load(folder / "cifar10" / "cifar10_lossless_subset.npz")
    lossless = load_data("cifar10-lossless", data_dir=folder).test.inputs
    assert np.array_equal(lossless.permute(0, 2, 3, 1), arrays["test_image"])
    decoded = load_data("cifar10-jpeg", data_dir=folder).test.inputs
    assert [int(image.float().mean().round()) for image in decoded] == [0, 10, 20, 30]


def test_crop_and_flip_moves_pixels_and_follows_torchs_seed():
    image = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).repeat(200, 2, 1, 1)
    augment = CropAndFlip(Normalise((0.0, 0.0), (1 / 255, 1 / 255)), margin=2)
    torch.manual_seed(0)
    first = augment(image)
    torch.manual_seed(0)
    assert torch.equal(first, augment(image))
    padded = F.pad(image[0], [2] * 4)
    windows = [padded[:, i : i + 8, j : j + 8] for i in range(5) for j in range(5)]
    possible = {window.float().numpy().tobytes() for window in windows + [window.flip(2) for window in windows]}
    drawn = {example.numpy().tobytes() for example in first.round()}
    assert drawn <= possible
    assert len(drawn) > 40  # of 50


def test_log_mel_puts_a_tone_into_its_band():
    time = np.arange(63 * 128 + 256) / 8000
    tones = np.stack([0.5 * np.sin(2 * np.pi * hertz * time) for hertz in (300, 1000, 3000)]).astype(np.float32)
    bands = log_mel(tones)
    assert bands.shape == (3, FRAMES, FEATURES)
    mel = 2595 * np.log10(1 + np.array([300, 1000, 3000]) / 700)
    low, high = 2595 * np.log10(1 + np.array([20, 4000]) / 700)
    expected = (mel - low) / (high - low) * (FEATURES + 1) - 1
    assert np.abs(bands.mean(1).argmax(1) - expected).max() <= 1


def test_vocabulary_keeps_the_most_frequent_words_and_knows_the_unknown():
    vocabulary = Vocabulary.of(["b a a", "it's  b,A; C_d"])
    assert vocabulary.ids == {"a": 2, "b": 3, "c": 4, "d": 5, "it's": 6}
    ids = vocabulary.encode(["A it’s new!", "", "b " * 100])
    assert ids.shape == (3, LENGTH)
    assert ids[0, :4].tolist() == [2, 6, 1, 0]
    assert not ids[1].any()
    assert (ids[2] == 3).all()
    assert len(Vocabulary.of([" ".join(f"w{i}" for i in range(9000))]).ids) == VOCABULARY - 2


def test_vocabulary_is_built_from_training_texts_alone(folder):
    data = load_data("stsb", data_dir=folder)
    assert data.train.inputs[1, 1].count_nonzero() == 2
    assert (data.test.inputs[1, 1] == 1).any()  # the word "test" is not in the training texts


@pytest.mark.parametrize(("count", "size"), [(10, 4), (9, 4), (9, 3), (1, 4), (4, 1)])
def test_batches_hold_every_example_once(count, size):
    for shuffle in (False, True):
        loader = TensorBatches(torch.arange(count), torch.arange(count), size, shuffle)
        batches = [inputs for inputs, _ in loader]
        assert len(batches) == len(loader)
        assert sorted(torch.cat(batches).tolist()) == list(range(count))
        if shuffle and count > size > 1:
            assert min(map(len, batches)) > 1  # batch norm cannot train on one example


def test_shuffling_follows_torchs_seed():
    loader = TensorBatches(torch.arange(50), torch.arange(50), 50, shuffle=True)
    orders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        orders.append(next(iter(loader))[0])
    assert torch.equal(orders[0], orders[1])
    assert not torch.equal(orders[0], orders[2])


def test_example_repeats_a_short_validation():
    data = load_data("digits", batch_size=100)
    example = data.example(600)
    assert torch.equal(example[:270], data.validation.inputs)
    assert torch.equal(example[270:540], data.validation.inputs)


def test_rank_correlation_is_pearsons_of_ranks():
    outputs, targets = torch.randn(50, 1), torch.randn(50).round()
    ranks = np.corrcoef(rankdata(outputs.flatten()), rankdata(targets))[0, 1]
    assert rank_correlation(outputs, targets) == pytest.approx(max(0.0, ranks))
    assert rank_correlation(targets, targets) == pytest.approx(1)
    assert rank_correlation(-targets, targets) == 0
    assert rank_correlation(torch.zeros(50), targets) == 0


def test_accuracy_and_squared_error():
    assert accuracy(torch.eye(4), torch.tensor([0, 1, 2, 0])) == 0.75
    assert mean_squared_error(torch.tensor([[1.0], [3.0]]), torch.tensor([1.0, 1.0])) == 2


def test_every_network_reads_the_data_it_is_for(folder):
    for name, network in NETWORKS.items():
        if network.data != "imagenet":
            data = load_data(network.data, data_dir=folder)
            assert data.input_shape == network.input_shape, name
            assert data.vocabulary == network.vocabulary, name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spec": "minst"}, r"there is no data 'minst'; did you mean mnist"),
        ({"spec": "digits", "batch_size": 0}, r"batch size must be at least 1, got 0$"),
        ({"spec": "mnist"}, r"data 'mnist' is read from a folder; give it as --data-dir DIR, or as ECC_DATA$"),
        (
            {"spec": "mnist", "data_dir": "gone"},
            r"the data folder gone does not exist; give the folder of mnist as --d",
        ),
    ],
    ids=["unknown", "batch", "no-folder", "gone"],
)
def test_calls_that_cannot_work_are_refused(monkeypatch, arguments, message):
    monkeypatch.delenv("ECC_DATA", raising=False)
    with pytest.raises(InputError, match=f"^{message}"):
        load_data(**arguments)


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("mnist", "mnist/t10k-labels-idx1-ubyte.gz"),
        ("cifar10-jpeg", "cifar10/cifar10_jpeg.npz"),
        ("cifar10-lossless", "cifar10/cifar10_lossless_subset.npz"),
        ("cifar10-binary", "cifar10/cifar-10-batches-bin/data_batch_3.bin"),
        ("fsdd", "fsdd/fsdd.npz"),
        ("banking77", "text/banking77_test.csv"),
        ("clinc150", "text/clinc150.csv"),
        ("stsb", "text/stsb_en_dev.csv"),
    ],
)
def test_a_missing_file_is_named_with_where_it_was_sought(folder, name, missing):
    (folder / missing).unlink()
    with pytest.raises(
        InputError, match=rf"^there is no .*{re.escape(Path(missing).name)}.* in .*; give the folder that"
    ):
        load_data(name, data_dir=folder)


def damaged(arrays: dict[str, np.ndarray], change: dict[str, object]) -> dict[str, np.ndarray]:
    return {name: value for name, value in (arrays | change).items() if value is not None}


OFFSET = np.array([0, 5, 3, 9])


@pytest.mark.parametrize(
    ("name", "path", "arrays", "change", "message"),
    [
        ("cifar10-lossless", "cifar10/cifar10_lossless_subset.npz", cifar_lossless_arrays, change, message)
        for change, message in [
            ({"test_image": None}, "it holds no array test_image"),
            ({"train_image": np.zeros((20, 3, 32, 32), np.uint8)}, "train_image is no 32×32 RGB bytes"),
            ({"train_image": np.zeros((20, 32, 32, 3))}, "train_image is no 32×32 RGB bytes"),
            ({"train_label": np.full(20, 10)}, "a label is not in 0 to 9"),
            ({"train_label": np.full(20, -1)}, "a label is not in 0 to 9"),
            ({"train_label": np.zeros(19, int)}, "its labels are not 20 integers"),
            ({"train_label": np.zeros(20)}, "its labels are not 20 integers"),
        ]
    ]
    + [
        ("cifar10-jpeg", "cifar10/cifar10_jpeg.npz", cifar_jpeg_arrays, change, message)
        for change, message in [
            ({"train_offset": OFFSET}, "its offsets are out of order or beyond the end"),
            ({"train_offset": OFFSET.astype(np.uint64)}, "its offsets are out of order or beyond the end"),
            ({"train_offset": np.array([0, 2**40])}, "its offsets are out of order or beyond the end"),
            ({"train_offset": np.array([0.0, 1.0])}, "its offsets are no integers"),
            ({"test_jpeg": np.zeros(90000, np.uint8)}, "image 0 is no JPEG"),
            ({"test_jpeg": np.zeros(90000, np.int16)}, "its JPEG stream is no row of bytes"),
        ]
    ]
    + [
        ("fsdd", "fsdd/fsdd.npz", fsdd_arrays, change, message)
        for change, message in [
            ({"offset": OFFSET}, "its offsets are out of order or beyond the end"),
            ({"samples": np.zeros(10**6)}, "its samples are no row of 16-bit integers"),
            ({"sample_rate": np.array("8 kHz")}, "its rate is not 8000 Hz"),
            ({"sample_rate": np.int32(16000)}, "its rate is not 8000 Hz"),
            ({"label": np.zeros(29, np.uint8)}, "its label is not one integer per clip"),
            ({"label": np.full(30, 11)}, "a label is not in 0 to 9"),
            ({"index": np.full(30, 20)}, "no recording is for validation"),
        ]
    ],
)
def test_arrays_that_contradict_each_other_are_refused(folder, name, path, arrays, change, message):
    values = damaged(arrays(), change)
    if name == "fsdd" and message.startswith("its samples"):
        values["offset"] = np.arange(31) * 1000
    np.savez(folder / path, **values)
    with pytest.raises(
        InputError, match=rf"^{re.escape(str(folder / path))} is damaged: {message}; get the file again$"
    ):
        load_data(name, data_dir=folder)


def test_a_jpeg_of_another_size_is_refused_before_it_is_unpacked(folder):
    arrays = cifar_jpeg_arrays()
    image = jpeg(np.zeros((33, 32, 3), np.uint8))
    arrays |= {"test_jpeg": np.frombuffer(image, np.uint8), "test_offset": np.array([0, len(image)])}
    np.savez(folder / "cifar10" / "cifar10_jpeg.npz", **(arrays | {"test_label": np.array([1])}))
    with pytest.raises(InputError, match=r"is damaged: image 0 is not 32×32 pixels; get the file again$"):
        load_data("cifar10-jpeg", data_dir=folder)


CLINC = "split,text,intent\ntrain,a,x\nval,a,x\n"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("banking77_train.csv", "text,label\na,b\n", "it has no column category"),
        ("banking77_train.csv", "text,category\n", "it has no rows"),
        ("banking77_train.csv", "", "it has no column text, category"),
        ("banking77_train.csv", "text,category\na,b\nc\n", "row 3 has too few fields"),
        ("banking77_train.csv", "text,category\na,b\nc,b\n", "all its rows are of one category"),
        ("banking77_test.csv", "text,category\na,cards\n", "category 'cards' is not in banking77_train.csv"),
        ("clinc150.csv", "split,text,intent\nval,a,b\n", "it has no rows of split train"),
        ("clinc150.csv", CLINC + "test,a,x\n", "all its training rows are of one intent"),
        ("clinc150.csv", CLINC + "train,a,y\ntest,a,z\n", "intent 'z' of split test has no training rows"),
        ("stsb_en_dev.csv", "sentence1,sentence2,score\na,b,6\n", "score '6' is no number from 0 to 5"),
        ("stsb_en_dev.csv", "sentence1,sentence2,score\na,b,nan\n", "score 'nan' is no number from 0 to 5"),
        ("stsb_en_dev.csv", "sentence1,sentence2,score\na,b,good\n", "score 'good' is no number from 0 to 5"),
    ],
)
def test_tables_that_do_not_fit_are_refused(folder, file, text, message):
    path = folder / "text" / file
    path.write_text(text)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))} is damaged: {message}; get the file again$"):
        load_data(re.match("banking77|clinc150|stsb", file)[0], data_dir=folder)


def test_a_table_that_is_no_text_is_refused(folder):
    (folder / "text" / "stsb_en_dev.csv").write_bytes(b"\xff\xfe\x00score")
    with pytest.raises(
        InputError, match=r"stsb_en_dev\.csv cannot be read \(UnicodeDecodeError: .*; get the file again$"
    ):
        load_data("stsb", data_dir=folder)


def test_records_that_are_cut_are_refused(folder):
    path = folder / "cifar10" / "cifar-10-batches-bin" / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"test_batch\.bin is damaged: its 12291 bytes are not whole records of 3073"):
        load_data("cifar10", data_dir=folder)
