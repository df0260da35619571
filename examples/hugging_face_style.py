"""A transformer as Hugging Face writes them: a config, keyword inputs, outputs that are a dict with attributes.

    python examples/hugging_face_style.py                  # a small encoder of that manner; needs no library
    python examples/hugging_face_style.py --transformers   # BertForSequenceClassification of the library itself

Two small classes are all that ecc asks for: a module around the network that takes tensors by position and gives the
logits, and loaders that say so. Heads, channels of heads and feed-forward channels go. The width of the embedding
stays, since norms take their statistics over it (``ecc.trace(..., renormalise=True)`` would let it go).
"""

import argparse
from collections import OrderedDict
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import ecc


@dataclass
class Config:
    """Sizes, by the names that the library uses."""

    vocab_size: int = 17
    hidden_size: int = 48
    num_attention_heads: int = 4
    intermediate_size: int = 96
    num_hidden_layers: int = 2
    max_position_embeddings: int = 64
    num_labels: int = 10


class ModelOutput(OrderedDict):
    """A dict whose members are attributes too."""

    def __getattr__(self, name: str) -> Tensor:
        return self[name]


class SelfAttention(nn.Module):
    """Attention as the library spells it out: views by the number of heads, and a mask that is added."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.num_heads, self.head_dim = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.query, self.key, self.value, self.out = (
            nn.Linear(config.hidden_size, config.hidden_size) for _ in range(4)
        )

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        shape = (*hidden.shape[:-1], -1, self.head_dim)
        query, key, value = (layer(hidden).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        scores = query @ key.transpose(-1, -2) / self.head_dim**0.5 + mask
        mixed = (scores.softmax(-1) @ value).transpose(1, 2)
        return self.out(mixed.reshape(*hidden.shape[:-1], -1))


class Layer(nn.Module):
    """Attention and a feed-forward part, each with its norm."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention, self.norm = SelfAttention(config), nn.LayerNorm(config.hidden_size)
        self.intermediate = nn.Linear(config.hidden_size, config.intermediate_size)
        self.output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.last_norm = nn.LayerNorm(config.hidden_size)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        hidden = self.norm(hidden + self.attention(hidden, mask))
        return self.last_norm(hidden + self.output(nn.functional.gelu(self.intermediate(hidden))))


class SequenceClassifier(nn.Module):
    """``forward(input_ids, attention_mask)`` gives a ModelOutput."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> ModelOutput:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        hidden = self.words(input_ids) + self.positions(places)
        mask = (1 - attention_mask[:, None, None, :].to(hidden.dtype)) * -1e4
        for layer in self.layers:
            hidden = layer(hidden, mask)
        return ModelOutput(logits=self.classifier(hidden.mean(1)), last_hidden_state=hidden)


class Logits(nn.Module):
    """The first of the two: tensors by position in, logits out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


class Pairs:
    """The second: batches of dicts as ((input_ids, attention_mask), labels)."""

    def __init__(self, batches: list[dict[str, Tensor]]) -> None:
        self.batches = batches

    def __iter__(self):
        for batch in self.batches:
            yield (batch["input_ids"], batch["attention_mask"]), batch["labels"]


def batches() -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Digits as sequences of 32 tokens of 17 kinds, as a tokenizer and a collator would give them."""
    images, labels = load_digits(return_X_y=True)
    tokens = torch.from_numpy(images).long()[:, ::2]
    found = [
        {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": wanted}
        for ids, wanted in zip(tokens.split(64), torch.from_numpy(labels).split(64), strict=True)
    ]
    return found[:22], found[22:]


def network(library: bool) -> nn.Module:
    config = Config()
    if not library:
        return SequenceClassifier(config)
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(BertConfig(**vars(config)))


def main(transformers: bool = False) -> None:
    torch.manual_seed(0)
    model = network(transformers)
    train, validation = batches()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(8):
        for batch in train:
            optimiser.zero_grad()
            outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            nn.functional.cross_entropy(outputs.logits, batch["labels"]).backward()
            optimiser.step()
    model.eval()

    inputs = {"input_ids": validation[0]["input_ids"][:1], "attention_mask": validation[0]["attention_mask"][:1]}
    print(ecc.trace(model, inputs))  # the network itself can be traced, with its dict of inputs and of outputs
    result = ecc.compress(
        Logits(model), Pairs(train), Pairs(validation), budgets=["macs<=50%"], method="uniform", epochs=2,
        example_inputs=tuple(inputs.values()),
    )  # fmt: skip
    print(result)
    small = result.model.model  # of the class that came in, with its config; sizes are those of its tensors
    sizes = f"{sum(p.numel() for p in small.parameters()):,} parameters, logits {tuple(small(**inputs).logits.shape)}"
    print(f"{type(small).__name__}: {sizes}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transformers", action="store_true", help="take the network of the library")
    main(**vars(parser.parse_args()))
