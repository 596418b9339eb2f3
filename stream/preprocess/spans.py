"""Spans that rules find in a text, and the two helpers every rule works with: `shadow` and `blanked`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

_NUMERALS = str.maketrans("零〇一二三四五六七八九幺壹贰叁肆伍陆柒捌玖", "001234567891123456789")


class Found(NamedTuple):
    """What a rule found: a span of the text searched (code points, end exclusive) and its type."""

    start: int
    end: int
    type: str


def shadow(text: str) -> str:
    """The text, equally long, with Chinese numerals as digits and with small letters."""
    return text.translate(_NUMERALS).replace("İ", "I").lower()


def joined(spans: Iterable[Found]) -> list[Found]:
    """The spans sorted, overlapping ones made one, of the longest one's type, the first of equals."""
    result: list[Found] = []
    longest = 0
    for span in sorted(spans, key=lambda span: span[:2]):
        length = span.end - span.start
        if result and span.start < result[-1].end:
            last = result[-1]
            result[-1] = Found(last.start, max(last.end, span.end), span.type if length > longest else last.type)
            longest = max(longest, length)
        else:
            result.append(span)
            longest = length
    return result


def blanked(text: str, spans: Iterable[Found]) -> str:
    """The text, equally long, with the spans filled with brackets, which every rule takes for the edge of a tag."""
    pieces: list[str] = []
    copied = 0
    for span in spans:
        pieces += (text[copied : span.start], "]" * (span.end - span.start))
        copied = span.end
    return "".join((*pieces, text[copied:]))
