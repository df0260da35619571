"""Texts as word ids: queries with their intents, and pairs of sentences with their similarity.

Banking77 (Casanueva et al., 2020, 77 intents), CLINC150 (Larson et al., EMNLP 2019, 150 intents), STS-B (Cer et al.,
2017, pairs scored 0 to 5). Id 0 is padding, 1 a word that is not in the vocabulary; the others are the most frequent
words of the training part.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ecc.data.files import check, locate, read_csv
from ecc.data.splits import hold_out
from ecc.data.values import Data, TensorBatches, accuracy, mean_squared_error, rank_correlation

__all__ = ["LENGTH", "VOCABULARY", "Vocabulary", "banking77", "clinc150", "stsb"]

VOCABULARY = 8192  # ids are below this, whatever the texts
LENGTH = 32  # words of a text that are read

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower().replace("’", "'"))


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words and their ids from 2 on.

    Attributes:
        ids: The most frequent words of the texts it was built from.
    """

    ids: dict[str, int]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Vocabulary:
        """The most frequent words; of equally frequent ones the alphabetically first."""
        counts = Counter(word for text in texts for word in _words(text))
        ordered = sorted(counts, key=lambda word: (-counts[word], word))
        return cls({word: i for i, word in enumerate(ordered[: VOCABULARY - 2], start=2)})

    def encode(self, texts: Iterable[str]) -> Tensor:
        """Ids of shape (texts, LENGTH): the first words, then padding."""
        rows = []
        for text in texts:
            ids = [self.ids.get(word, 1) for word in _words(text)[:LENGTH]]
            rows.append(ids + [0] * (LENGTH - len(ids)))
        return torch.tensor(rows, dtype=torch.int64).reshape(-1, LENGTH)


def banking77(data_dir: Path, batch_size: int) -> Data:
    """Queries (32,) with one of 77 intents; the official test, and a tenth of the training queries for validation."""
    path = locate(data_dir, "text", "banking77_train.csv")
    train_texts, train_names = zip(*read_csv(path, ["text", "category"]), strict=True)
    classes = {name: i for i, name in enumerate(sorted(set(train_names)))}
    check(path, len(classes) > 1, "all its rows are of one category")
    test_path = locate(data_dir, "text", "banking77_test.csv")
    test_texts, test_names = zip(*read_csv(test_path, ["text", "category"]), strict=True)
    unknown = sorted(set(test_names) - set(classes))
    check(test_path, not unknown, f"category {unknown[0] if unknown else ''!r} is not in {path.name}")
    labels = np.array([classes[name] for name in train_names])
    kept, held = hold_out(labels, 0.1)
    vocabulary = Vocabulary.of(train_texts[i] for i in kept)

    def part(index: NDArray[np.int64], shuffle: bool = False) -> TensorBatches:
        ids = vocabulary.encode(train_texts[i] for i in index)
        return TensorBatches(ids, torch.from_numpy(labels[index]), batch_size, shuffle)

    return Data(
        "banking77",
        "classification",
        len(classes),
        (LENGTH,),
        train=part(kept, shuffle=True),
        validation=part(held),
        test=TensorBatches(
            vocabulary.encode(test_texts), torch.tensor([classes[name] for name in test_names]), batch_size
        ),
        loss=F.cross_entropy,
        score=accuracy,
        vocabulary=VOCABULARY,
    )


def clinc150(data_dir: Path, batch_size: int) -> Data:
    """Queries (32,) with one of 150 intents, in the official parts; those out of scope are left out."""
    path = locate(data_dir, "text", "clinc150.csv")
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "val": [], "test": []}
    for part, text, intent in read_csv(path, ["split", "text", "intent"]):
        if part in parts:
            parts[part].append((text, intent))
    for part, rows in parts.items():
        check(path, len(rows) > 0, f"it has no rows of split {part}")
    classes = {name: i for i, name in enumerate(sorted({intent for _, intent in parts["train"]}))}
    check(path, len(classes) > 1, "all its training rows are of one intent")
    vocabulary = Vocabulary.of(text for text, _ in parts["train"])
    loaders = {}
    for part, rows in parts.items():
        unknown = sorted({intent for _, intent in rows} - set(classes))
        check(path, not unknown, f"intent {unknown[0] if unknown else ''!r} of split {part} has no training rows")
        ids = vocabulary.encode(text for text, _ in rows)
        labels = torch.tensor([classes[intent] for _, intent in rows])
        loaders[part] = TensorBatches(ids, labels, batch_size, shuffle=part == "train")
    return Data(
        "clinc150",
        "classification",
        len(classes),
        (LENGTH,),
        train=loaders["train"],
        validation=loaders["val"],
        test=loaders["test"],
        loss=F.cross_entropy,
        score=accuracy,
        vocabulary=VOCABULARY,
    )


def stsb(data_dir: Path, batch_size: int) -> Data:
    """Sentence pairs (2, 32) with their similarity in [0, 1], in the official parts; the score is Spearman's."""
    rows = {}
    for name, part in (("train", "train"), ("validation", "dev"), ("test", "test")):
        path = locate(data_dir, "text", f"stsb_en_{part}.csv")
        rows[name] = [
            (a, b, _score(path, score)) for a, b, score in read_csv(path, ["sentence1", "sentence2", "score"])
        ]
    vocabulary = Vocabulary.of(sentence for a, b, _ in rows["train"] for sentence in (a, b))
    loaders = {}
    for name, pairs in rows.items():
        first, second, scores = zip(*pairs, strict=True)
        ids = torch.stack([vocabulary.encode(first), vocabulary.encode(second)], 1)
        targets = torch.tensor(scores, dtype=torch.float32) / 5
        loaders[name] = TensorBatches(ids, targets, batch_size, shuffle=name == "train")
    return Data(
        "stsb",
        "regression",
        1,
        (2, LENGTH),
        train=loaders["train"],
        validation=loaders["validation"],
        test=loaders["test"],
        loss=mean_squared_error,
        score=rank_correlation,
        vocabulary=VOCABULARY,
    )


def _score(path: Path, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = float("nan")
    check(path, 0 <= score <= 5, f"score {text[:40]!r} is no number from 0 to 5")
    return score
