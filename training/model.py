"""The text model: one encoder, four answers, so that a text is read once for everything the radar asks of it.

Labels look at the tokens they need through label-wise attention (CAML: Mullenbach et al., "Explainable Prediction of
Medical Codes from Clinical Text", NAACL 2018, https://arxiv.org/abs/1802.05695). The attention scores are the logits
of the evidence head, which is trained on annotated spans: what the model shows as evidence is what it decided on.

Shapes: B texts, T tokens, H hidden units, L = 23 evidence labels (13 aspects, then 10 demands).
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertModel

from serving.labels import ASPECT_STATES, ASPECTS, DEMANDS, EVIDENCE_LABELS, POLARITIES
from training.wide import Wide

#: Order of :attr:`RadarModel.temperature`; the wide part has a weight in the first three.
HEADS: Final = ("sentiment", "aspects", "demands", "evidence")
#: First logit of what is rare, so that training starts from the prior instead of spending its first steps on it.
RARE: Final = -3.0


class Logits(NamedTuple):
    """What the heads say before softmax and sigmoid; the same shapes as the output tensors in serving/labels.py."""

    sentiment: Tensor  #: [B, 3]
    aspects: Tensor  #: [B, 13, 4]
    demands: Tensor  #: [B, 10, 2]
    evidence: Tensor  #: [B, T, 23]


class LabelLinear(nn.Module):
    """A linear layer per label plus one shared by all, so that rare labels learn from frequent ones.

    [B, L, F] -> [B, L, K]
    """

    def __init__(self, labels: int, features: int, outputs: int) -> None:
        super().__init__()
        self.shared = nn.Linear(features, outputs)
        self.weight = nn.Parameter(torch.zeros(labels, features, outputs))
        self.bias = nn.Parameter(torch.zeros(labels, outputs))

    def forward(self, vectors: Tensor) -> Tensor:
        own = torch.matmul(vectors.unsqueeze(2), self.weight).squeeze(2)
        shared: Tensor = self.shared(vectors)
        return shared + own + self.bias


class RadarModel(nn.Module):
    """Encoder with heads for sentiment, aspects, demands and evidence."""

    encoder: Any
    temperature: Tensor
    wide_weight: Tensor

    def __init__(self, encoder: nn.Module, hidden: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.norm = nn.LayerNorm(hidden)  # e5's states are small and alike; without it the heads learn very slowly
        self.dropout = nn.Dropout(dropout)
        self.evidence = nn.Linear(hidden, len(EVIDENCE_LABELS))
        self.sentiment = nn.Linear(hidden, len(POLARITIES))
        self.aspects = LabelLinear(len(ASPECTS), 2 * hidden, len(ASPECT_STATES))
        self.demands = LabelLinear(len(DEMANDS), 2 * hidden, 2)
        self.wide = Wide()
        self.register_buffer("temperature", torch.ones(len(HEADS)))
        self.register_buffer("wide_weight", torch.zeros(len(HEADS) - 1))
        with torch.no_grad():
            self.evidence.bias.fill_(RARE)
            self.demands.bias[:, 0] = RARE
            self.aspects.bias[:, 0] = -RARE

    @classmethod
    def from_base(cls, base: Path) -> "RadarModel":
        """The base encoder with fresh heads."""
        if not (base / "config.json").is_file():
            raise SystemExit(
                f"No base weights in {base}: name their folder with --base, or try --smoke, which needs none."
            )
        encoder = AutoModel.from_pretrained(
            base, add_pooling_layer=False, dtype=torch.float32, attn_implementation="eager"
        )
        return cls(encoder, encoder.config.hidden_size)

    @classmethod
    def tiny(cls, vocabulary: int, hidden: int = 32) -> "RadarModel":
        """A randomly initialised model of two layers, for tests and the smoke run."""
        return cls._random(vocabulary, hidden, layers=2, heads=2)

    @classmethod
    def sized_as_base(cls, vocabulary: int) -> "RadarModel":
        """A randomly initialised model of the shipped base's size, for measuring speed without its weights."""
        return cls._random(vocabulary, hidden=384, layers=12, heads=12)

    @classmethod
    def _random(cls, vocabulary: int, hidden: int, layers: int, heads: int) -> "RadarModel":
        config = BertConfig(
            vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=4 * hidden, attn_implementation="eager",
        )  # fmt: skip
        return cls(BertModel(config, add_pooling_layer=False), hidden)

    def load_weights(self, state: Mapping[str, Tensor]) -> None:
        """Take up the weights of an earlier run, which may have had fewer layers and no wide part."""
        self.drop(range(_layers(state), len(self.encoder.encoder.layer)))
        own = self.state_dict()
        wrong = [name for name in own if name not in state and not name.startswith("wide")]
        wrong += [name for name, tensor in state.items() if name not in own or own[name].shape != tensor.shape]
        if wrong:
            raise SystemExit(f"These are weights of another model: {wrong[:3]} …")
        self.load_state_dict(dict(state), strict=False)

    def drop(self, layers: Collection[int]) -> None:
        """Leave these layers of the encoder out, 0 the lowest; training brings most of what they did back.

        On dev rows the second to the tenth of twelve cost little before any training, the last nearly everything.
        """
        kept = [layer for i, layer in enumerate(self.encoder.encoder.layer) if i not in layers]
        self.encoder.encoder.layer = nn.ModuleList(kept)
        self.encoder.config.num_hidden_layers = len(kept)

    def freeze(self, layers: int) -> None:
        """Keep the lowest layers as they are (the embeddings are the first), and spare the costly dropout there.

        Dropout of attention weights goes everywhere: drawing its random numbers took a tenth of a step on CPUs.
        """
        for i, layer in enumerate([self.encoder.embeddings, *self.encoder.encoder.layer]):
            layer.requires_grad_(i >= layers)
            for name, part in layer.named_modules():
                if isinstance(part, nn.Dropout) and (i < layers or name == "attention.self.dropout"):
                    part.p = 0.0

    def adapt(self, method: str, rank: int) -> None:
        """Train low-rank updates of the encoder's linear layers instead: "lora", or "dora" (Liu et al. 2024)."""
        if method not in ("lora", "dora"):
            raise SystemExit(f"adapter must be lora or dora, not {method!r}.")
        from peft import LoraConfig, get_peft_model

        targets = [name for name, part in self.encoder.named_modules() if isinstance(part, nn.Linear)]
        config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, use_dora=method == "dora")
        self.encoder = get_peft_model(self.encoder, config)

    def merge(self) -> None:
        """Fold the updates of :meth:`adapt` into the weights; the model is then as if trained whole."""
        if hasattr(self.encoder, "merge_and_unload"):
            self.encoder = self.encoder.merge_and_unload()

    def blend(self, earlier: Mapping[str, Tensor], share: float) -> None:
        """Move ``share`` of the way back to earlier weights: what was learnt anew then costs less of what was known
        (Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022)."""
        self.load_state_dict({name: torch.lerp(own, earlier[name], share) for name, own in self.state_dict().items()})

    def uncalibrate(self) -> None:
        """Temperatures 1, and nothing of the wide part."""
        self.temperature.fill_(1.0)
        self.wide_weight.zero_()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Logits:
        """int64 [B, T] twice (mask: 1 for a token, 0 for padding) -> :class:`Logits`."""
        return self.read(input_ids, attention_mask)[0]

    def read(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Logits, Tensor]:
        """As :meth:`forward`, and the mean state of the tokens, [B, H], on which new labels can be learnt."""
        states = self.dropout(self.norm(self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]))
        evidence = self.evidence(states)

        padding = (attention_mask == 0).unsqueeze(-1)
        attention = evidence.masked_fill(padding, -1e4).softmax(dim=1)
        looked_at = torch.matmul(attention.transpose(1, 2), states)

        present = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * present).sum(dim=1) / present.sum(dim=1)
        vectors = torch.cat([looked_at, mean.unsqueeze(1).expand_as(looked_at)], dim=-1)
        aspects, demands = vectors[:, : len(ASPECTS)], vectors[:, len(ASPECTS) :]
        return Logits(self.sentiment(mean), self.aspects(aspects), self.demands(demands), evidence), mean


def _layers(state: Mapping[str, Tensor]) -> int:
    """The number of encoder layers in a state."""
    return len({found[1] for name in state if (found := re.search(r"\.layer\.(\d+)\.", name))})


class Calibrated(nn.Module):
    """The model as exported: probabilities of the encoder's logits, each head divided by its temperature (Guo et al.
    2017), plus the weighted logits of the wide part."""

    def __init__(self, model: RadarModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """int64 [B, T] twice -> the four output tensors of serving/labels.py, and the mean state."""
        logits, mean = self.model.read(input_ids, attention_mask)
        sentiment, aspects, demands, evidence = (scores / self.model.temperature[i] for i, scores in enumerate(logits))
        beside = (scores * self.model.wide_weight[i] for i, scores in enumerate(self.model.wide(input_ids)))
        said, felt, wanted = beside
        present, strength = demands.unbind(-1)
        demands = torch.stack([present + wanted, strength], dim=-1)
        return (
            (sentiment + said).softmax(-1), (aspects + felt).softmax(-1), demands.sigmoid(), evidence.sigmoid(), mean,
        )  # fmt: skip
