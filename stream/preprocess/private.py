"""Personal data: found by rules, so that masking needs no model, is the same on every worker, and can be explained.

The rules run over the readable form of a text (`clean.read`). Each is a regular expression without nested unbounded
repetition, or a short scan from an anchor, so that the search is linear. Where finds overlap they are joined, and the
longest gives the type: nothing that any rule found stays readable. The search is repeated over what is left until it
finds nothing more, so that masking a masked text changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from stream.preprocess import addresses, numbers
from stream.preprocess.spans import Found, blanked, joined, shadow

TYPES = ("PHONE", "EMAIL", "ID_CARD", "BANK_CARD", "ADDRESS", "ORDER_NO", "WECHAT", "QQ")
TAG = re.compile(rf"\[(?:{'|'.join(TYPES)})\]")

_AT = re.compile(r" @ |@| ?[(\[{](?:at|AT)[)\]}] ?|(?<=[A-Za-z0-9]) at (?=[A-Za-z0-9-]{1,40} dot )")
_LABELS = r"[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,4}"
_DOMAIN = re.compile(
    rf"{_LABELS}\.[A-Za-z]{{2,24}}|{_LABELS}(?: ?\. ?| ?[(\[{{](?:dot|DOT)[)\]}}] ?| dot |点)[A-Za-z]{{2,24}}"
)
_LOCAL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+-")


def find(text: str) -> list[Found]:
    """All personal data of a readable text, sorted and apart."""
    found: list[Found] = []
    dark = shadow(text)
    while new := joined((*numbers.find(dark), *_emails(text), *addresses.find(text))):
        found += new
        text, dark = blanked(text, new), blanked(dark, new)
    return joined(found)


def _emails(text: str) -> Iterator[Found]:
    """From the sign outwards, so that a flood of letters costs nothing."""
    for at in _AT.finditer(text):
        start = at.start()
        while start and text[start - 1] in _LOCAL:
            start -= 1
        if start < at.start() and (domain := _DOMAIN.match(text, at.end())):
            yield Found(start, domain.end(), "EMAIL")
