"""The text model: one encoder, four answers, so that a text is read once for everything the radar asks of it.

Labels look at the tokens they need through label-wise attention (CAML: Mullenbach et al., "Explainable Prediction of
Medical Codes from Clinical Text", NAACL 2018, https://arxiv.org/abs/1802.05695). The attention scores are the logits
of the evidence head, which is trained on annotated spans: what the model shows as evidence is what it decided on.

Shapes: B texts, T tokens, H hidden units, L = 23 evidence labels (13 aspects, then 10 demands).
"""

from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, BertModel

from serving.labels import ASPECT_STATES, ASPECTS, DEMANDS, EVIDENCE_LABELS, POLARITIES

#: Order of :attr:`RadarModel.temperature`.
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
        own = torch.einsum("blf,lfk->blk", vectors, self.weight)
        shared: Tensor = self.shared(vectors)
        return shared + own + self.bias


class RadarModel(nn.Module):
    """Encoder with heads for sentiment, aspects, demands and evidence."""

    encoder: Any
    temperature: Tensor

    def __init__(self, encoder: nn.Module, hidden: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.encoder = encoder
        self.norm = nn.LayerNorm(hidden)  # e5's states are small and alike; without it the heads learn very slowly
        self.dropout = nn.Dropout(dropout)
        self.evidence = nn.Linear(hidden, len(EVIDENCE_LABELS))
        self.sentiment = nn.Linear(hidden, len(POLARITIES))
        self.aspects = LabelLinear(len(ASPECTS), 2 * hidden, len(ASPECT_STATES))
        self.demands = LabelLinear(len(DEMANDS), 2 * hidden, 2)
        self.register_buffer("temperature", torch.ones(len(HEADS)))
        with torch.no_grad():
            self.evidence.bias.fill_(RARE)
            self.demands.bias[:, 0] = RARE
            self.aspects.bias[:, 0] = -RARE

    @classmethod
    def from_base(cls, base: Path) -> "RadarModel":
        """The base encoder with fresh heads; eager attention, because the exporter's fusion knows its pattern."""
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
        config = BertConfig(
            vocab_size=vocabulary, hidden_size=hidden, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=4 * hidden, attn_implementation="eager",
        )  # fmt: skip
        return cls(BertModel(config, add_pooling_layer=False), hidden)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Logits:
        """int64 [B, T] twice (mask: 1 for a token, 0 for padding) -> :class:`Logits`."""
        states = self.dropout(self.norm(self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]))
        evidence = self.evidence(states)

        padding = (attention_mask == 0).unsqueeze(-1)
        attention = evidence.masked_fill(padding, -1e4).softmax(dim=1)
        looked_at = torch.matmul(attention.transpose(1, 2), states)

        present = attention_mask.unsqueeze(-1).to(states.dtype)
        mean = (states * present).sum(dim=1) / present.sum(dim=1)
        vectors = torch.cat([looked_at, mean.unsqueeze(1).expand_as(looked_at)], dim=-1)
        aspects, demands = vectors[:, : len(ASPECTS)], vectors[:, len(ASPECTS) :]
        return Logits(self.sentiment(mean), self.aspects(aspects), self.demands(demands), evidence)


class Calibrated(nn.Module):
    """The model as exported: probabilities, each head divided by its temperature (Guo et al. 2017) first."""

    def __init__(self, model: RadarModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """int64 [B, T] twice -> the four output tensors of serving/labels.py."""
        logits = self.model(input_ids, attention_mask)
        sentiment, aspects, demands, evidence = (scores / self.model.temperature[i] for i, scores in enumerate(logits))
        return sentiment.softmax(-1), aspects.softmax(-1), demands.sigmoid(), evidence.sigmoid()
