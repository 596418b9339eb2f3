"""Why the model says what it says: the words it names, and whether taking them away makes it change its mind.

The evidence of a label is what the model attended to. That is checked by occlusion ("comprehensiveness" in DeYoung et
al., "ERASER", ACL 2020): the text is read again without the evidence, and once more without as many characters
elsewhere. Evidence *holds* where its loss costs the label more than the other loss does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from serving.decode import Span, TextScore
from serving.labels import BLAME, EVIDENCE_LABELS
from serving.scorer import Scorer

_ANY: Final = dict.fromkeys((*EVIDENCE_LABELS, BLAME), 0.0)


@dataclass(frozen=True, slots=True)
class Reason:
    """One label of a text. Probabilities are of its presence; spans count code points, end exclusive."""

    label: str
    says: str  #: polarity of an aspect, "wanted" for a demand
    prob: float
    threshold: float
    evidence: tuple[Span, ...]
    without: float  #: probability when the evidence is cut out
    control: float  #: probability when as much is cut out elsewhere; ``prob`` where the evidence is all there is

    @property
    def holds(self) -> bool:
        """Whether the evidence carries the label."""
        return self.without < min(self.prob, self.control)


async def explain(scorer: Scorer, text: str) -> list[Reason]:
    """The reasons for every label that ``scorer`` finds in ``text``; three readings a label, in one request."""
    (score,) = await scorer.score([text])
    found = [(aspect.aspect, aspect.sentiment, aspect.prob, aspect.evidence) for aspect in score.aspects]
    found += [(demand.demand, "wanted", demand.prob, demand.evidence) for demand in score.demands]
    cuts = [(without(text, spans), without(text, control(text, spans))) for *_, spans in found]
    readings = iter(await scorer.score([cut for pair in cuts for cut in pair], _ANY))
    return [
        Reason(
            label, says, prob, scorer.card.thresholds[label], tuple(spans), _presence(next(readings), label),
            _presence(next(readings), label),
        )
        for label, says, prob, spans in found
    ]  # fmt: skip


def without(text: str, spans: Sequence[Span]) -> str:
    """The text with the spans cut out."""
    return "".join(character for i, character in enumerate(text) if not any(a <= i < b for a, b in spans))


def control(text: str, spans: Sequence[Span]) -> list[Span]:
    """As many characters as ``spans`` hold, or all there are, from the places farthest from them."""
    length = sum(end - start for start, end in spans)
    outside = [i for i in range(len(text)) if not any(start <= i < end for start, end in spans)]
    far = sorted(outside, key=lambda i: -min((max(start - i, i - end + 1) for start, end in spans), default=0))
    return [(i, i + 1) for i in sorted(far[:length])]


def _presence(score: TextScore, label: str) -> float:
    """Of a reading with thresholds of zero; a blank text says nothing."""
    probs = {one.aspect: one.prob for one in score.aspects} | {one.demand: one.prob for one in score.demands}
    return probs.get(label, 0.0)
