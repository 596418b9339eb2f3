"""Texts that remember where they came from.

Cleaning removes, decodes and shortens, but an alert must point at the words the customer wrote. Every step therefore
keeps an `Alignment`: the places it rewrote, and nothing for the places it left alone. A lookup costs one binary search
a step, and a text that needs no cleaning carries no steps at all.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

Span = tuple[int, int]
_BEYOND = 1 << 62  # past any offset: a place that starts where we look counts as found


@dataclass(frozen=True, slots=True)
class Alignment:
    """The rewritten places of one step, sorted and apart; between them both texts are equal, character by character.

    `old` and `new` are spans in code points, end exclusive, of the text before and after; place i of one became place
    i of the other.
    """

    old: tuple[Span, ...] = ()
    new: tuple[Span, ...] = ()

    def back(self, start: int, end: int) -> Span:
        """The span before the step that a span after it came from; a span inside a rewritten place gives all of it."""
        return _translate(start, end, self.new, self.old)

    def forward(self, start: int, end: int) -> Span:
        """The span after the step that a span before it became; a span that touches a rewritten place takes all."""
        return _translate(start, end, self.old, self.new)


def _translate(start: int, end: int, here: tuple[Span, ...], there: tuple[Span, ...]) -> Span:
    first = _point(start, here, there)[0]
    return first, max(first, _point(end - 1, here, there)[1]) if end > start else first


def _point(at: int, here: tuple[Span, ...], there: tuple[Span, ...]) -> Span:
    """The span that the one character at `at` corresponds to."""
    i = bisect_right(here, (at, _BEYOND)) - 1
    if i < 0:
        return at, at + 1
    if at < here[i][1]:
        return there[i]
    shifted = at - here[i][1] + there[i][1]
    return shifted, shifted + 1


@dataclass(frozen=True, slots=True)
class Traced:
    """A text and the steps that led to it from the text as given."""

    text: str
    steps: tuple[Alignment, ...] = field(default=())

    def rewrite(self, pattern: re.Pattern[str], replacement: Callable[[re.Match[str]], str]) -> Traced:
        """Replace every match; linear in the text when the pattern is."""
        return self.replace((*match.span(), replacement(match)) for match in pattern.finditer(self.text))

    def replace(self, edits: Iterable[tuple[int, int, str]]) -> Traced:
        """Apply (start, end, new text) edits, which must be sorted and must not overlap."""
        text = self.text
        pieces: list[str] = []
        old: list[Span] = []
        new: list[Span] = []
        copied = length = 0
        for start, end, piece in edits:
            if piece == text[start:end]:
                continue
            length += start - copied
            pieces += (text[copied:start], piece)
            old.append((start, end))
            new.append((length, length + len(piece)))
            copied, length = end, length + len(piece)
        if not old:
            return self
        pieces.append(text[copied:])
        return Traced("".join(pieces), (*self.steps, Alignment(tuple(old), tuple(new))))

    def recoded(self, text: str) -> Traced:
        """The same trace over a text of the same length, changed character for character."""
        return Traced(text, self.steps)

    def back(self, start: int, end: int) -> Span:
        """The span of the text as given that a span of this text came from."""
        for step in reversed(self.steps):
            start, end = step.back(start, end)
        return start, end
