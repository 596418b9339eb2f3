"""The training loss: four tasks, each averaged over the cells that are known."""

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from torch.nn import functional as F

from training.batches import IGNORED, Batch

if TYPE_CHECKING:
    from training.model import Logits

#: Most aspects are absent from most texts; these weights keep "absent" from drowning the polarities.
STATE_WEIGHTS: Final = (1.0, 2.0, 2.0, 2.0)
EVIDENCE_POSITIVE: Final = 3.0
TASK_WEIGHTS: Final = {"sentiment": 1.0, "aspects": 4.0, "demands": 4.0, "strength": 1.0, "evidence": 4.0}


def task_losses(logits: "Logits", batch: Batch) -> dict[str, Tensor]:
    """Scalar loss per task; zero where a batch knows nothing about a task."""
    present, strength = logits.demands.unbind(-1)
    there = (batch.demands > 0) & batch.demands_known
    strengths = F.binary_cross_entropy_with_logits(strength, batch.strength, reduction="none")

    evidence = F.binary_cross_entropy_with_logits(
        logits.evidence, batch.evidence, reduction="none", pos_weight=torch.tensor(EVIDENCE_POSITIVE)
    )
    return label_losses(logits.sentiment, logits.aspects, present, batch) | {
        "strength": _mean(strengths, there),
        "evidence": _mean(evidence, batch.evidence_known),
    }


def label_losses(sentiment: Tensor, aspects: Tensor, demands: Tensor, batch: Batch) -> dict[str, Tensor]:
    """The losses of what a text says, without how strongly and where: [B, 3], [B, 13, 4], [B, 10] logits."""
    states = batch.aspects.flatten()
    weights = torch.tensor(STATE_WEIGHTS, dtype=aspects.dtype)
    found = F.cross_entropy(aspects.flatten(0, 1), states, weights, ignore_index=IGNORED, reduction="sum")
    wanted = F.binary_cross_entropy_with_logits(demands, batch.demands, reduction="none")
    felt = F.cross_entropy(sentiment, batch.sentiment, ignore_index=IGNORED, reduction="sum")
    return {
        "sentiment": felt / _count(batch.sentiment != IGNORED),
        "aspects": found / _count(states != IGNORED),
        "demands": _mean(wanted, batch.demands_known),
    }


def distilled(logits: "Logits", teacher: "Logits", mask: Tensor) -> dict[str, Tensor]:
    """The losses of a student that is to answer as its teacher does (Hinton et al. 2015), on every cell.

    Each is zero where the two agree. ``mask``: int64 [B, T], 1 for a token.
    """
    evidence = _sure(logits.evidence, teacher.evidence)
    return agreement(logits, teacher) | {"evidence": _mean(evidence, mask.unsqueeze(-1).expand_as(evidence))}


def agreement(logits: "Logits", other: "Logits") -> dict[str, Tensor]:
    """As :func:`distilled`, without the evidence: the two may be answers to texts of different words."""
    sentiment, aspects = (
        F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="none", log_target=True).sum(-1).mean()
        for ours, theirs in ((logits.sentiment, other.sentiment), (logits.aspects, other.aspects))
    )
    return {"sentiment": sentiment, "aspects": aspects, "demands": _sure(logits.demands, other.demands).mean()}


def total(losses: dict[str, Tensor]) -> Tensor:
    """The weighted sum that is minimised."""
    return torch.stack([TASK_WEIGHTS[task] * loss for task, loss in losses.items()]).sum()


def _sure(ours: Tensor, theirs: Tensor) -> Tensor:
    """Kullback-Leibler divergence of independent yes or no."""
    probability = theirs.sigmoid()
    entropy = F.binary_cross_entropy_with_logits(theirs, probability, reduction="none")
    return F.binary_cross_entropy_with_logits(ours, probability, reduction="none") - entropy


def _count(known: Tensor) -> Tensor:
    return known.sum().clamp(min=1)


def _mean(values: Tensor, known: Tensor) -> Tensor:
    return (values * known).sum() / _count(known)
