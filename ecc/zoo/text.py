"""Text networks on word ids: classifiers of one text and matchers of two, with bag-of-words or convolutional encoders.

Bag of words: mean of embeddings and hidden layer (Iyyer et al., ACL 2015). Convolutions: Kim, EMNLP 2014. A matcher
encodes both texts with the same encoder and reads |u - v| and u·v (Tai et al., ACL 2015). Id 0 is padding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecc.zoo.sizes import positive_ints

__all__ = [
    "BowEncoder",
    "CnnEncoder",
    "TextClassifier",
    "TextMatcher",
    "text_bow",
    "text_bow_match",
    "text_cnn",
    "text_cnn_match",
]

_SIZES = (3, 4, 5)  # words that a convolution sees, as in Kim's paper


class BowEncoder(nn.Module):
    """Mean of the embeddings of a text's words, then a hidden layer.

    Attributes:
        outputs: Channels of an encoded text.
    """

    def __init__(self, vocabulary: int, embedding: int, width: int) -> None:
        super().__init__()
        self.outputs = width
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=0)
        self.hidden = nn.Linear(embedding, width)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids of shape (batch, words) to (batch, outputs)."""
        words = (ids != 0).sum(1, keepdim=True).clamp(min=1)
        return F.relu(self.hidden(self.embedding(ids).sum(1) / words))


class CnnEncoder(nn.Module):
    """Convolutions over 3, 4 and 5 words side by side, ReLU, maximum over the text.

    Attributes:
        outputs: Channels of an encoded text.
    """

    def __init__(self, vocabulary: int, embedding: int, width: int) -> None:
        super().__init__()
        self.outputs = width * len(_SIZES)
        self.embedding = nn.Embedding(vocabulary, embedding, padding_idx=0)
        self.convs = nn.ModuleList(nn.Conv1d(embedding, width, size, padding=size // 2) for size in _SIZES)

    def forward(self, ids: Tensor) -> Tensor:
        """Map ids of shape (batch, words) to (batch, outputs)."""
        words = self.embedding(ids).transpose(1, 2)
        return torch.cat([F.relu(conv(words)).amax(2) for conv in self.convs], 1)


class TextClassifier(nn.Module):
    """Encoder, dropout, one linear layer."""

    def __init__(self, encoder: BowEncoder | CnnEncoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(encoder.outputs, num_classes)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of shape (batch, num_classes) from ids of shape (batch, words)."""
        logits: Tensor = self.head(self.dropout(self.encoder(ids)))
        return logits


class TextMatcher(nn.Module):
    """How alike two texts are: one encoder for both, a hidden layer on their difference and product."""

    def __init__(self, encoder: BowEncoder | CnnEncoder, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.hidden = nn.Linear(2 * encoder.outputs, width)
        self.head = nn.Linear(width, 1)

    def forward(self, ids: Tensor) -> Tensor:
        """Scores of shape (batch, 1) from ids of shape (batch, 2, words)."""
        u, v = self.encoder(ids[:, 0]), self.encoder(ids[:, 1])
        score: Tensor = self.head(F.relu(self.hidden(torch.cat([(u - v).abs(), u * v], 1))))
        return score


def text_bow(num_classes: int = 77, vocabulary: int = 8192, embedding: int = 128, width: int = 256) -> TextClassifier:
    """Classifier on a bag of words."""
    sizes = {"vocabulary": vocabulary, "embedding": embedding, "width": width}
    positive_ints("text-bow", num_classes=num_classes, **sizes)
    return TextClassifier(BowEncoder(vocabulary, embedding, width), num_classes)


def text_cnn(num_classes: int = 77, vocabulary: int = 8192, embedding: int = 128, width: int = 100) -> TextClassifier:
    """Classifier on convolutions over words; ``width`` filters per size."""
    sizes = {"vocabulary": vocabulary, "embedding": embedding, "width": width}
    positive_ints("text-cnn", num_classes=num_classes, **sizes)
    return TextClassifier(CnnEncoder(vocabulary, embedding, width), num_classes)


def text_bow_match(vocabulary: int = 8192, embedding: int = 128, width: int = 256) -> TextMatcher:
    """Matcher on bags of words."""
    positive_ints("text-bow-match", vocabulary=vocabulary, embedding=embedding, width=width)
    return TextMatcher(BowEncoder(vocabulary, embedding, width), width)


def text_cnn_match(vocabulary: int = 8192, embedding: int = 128, width: int = 100) -> TextMatcher:
    """Matcher on convolutions over words; ``width`` filters per size."""
    positive_ints("text-cnn-match", vocabulary=vocabulary, embedding=embedding, width=width)
    return TextMatcher(CnnEncoder(vocabulary, embedding, width), width)
