"""Names that a shop knows, found in texts: its brands and products.

A name is found where it stands, whole: "ear" is not in "year", but "华为" is in "买了华为手机". Looking costs a few
steps a character however many names there are, and names come and go one by one with the products that have them. One
thread may change them while others look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from stream.preprocess.clean import read
from stream.preprocess.spans import Found

KINDS: Final = ("brand", "product")  # the first wins where a name is both
LEAST: Final = 2  # characters of a name


class Names:
    """Names of :data:`KINDS`, each as often as it was added."""

    def __init__(self) -> None:
        self._added: Counter[tuple[str, str]] = Counter()  # (name, kind)
        self._starting: Counter[tuple[str, int]] = Counter()  # (first characters, length)
        # What is looked up: values are replaced, never changed.
        self._kinds: dict[str, str] = {}
        self._lengths: dict[str, tuple[int, ...]] = {}  # first characters -> lengths of their names, longest first

    def add(self, name: str, kind: str) -> None:
        self._count(name, kind, 1)

    def remove(self, name: str, kind: str) -> None:
        """Take back one :meth:`add`."""
        self._count(name, kind, -1)

    def find(self, text: str) -> Iterator[Found]:
        """The names of a readable text from left to right, the longest at each place, apart."""
        folded, at = _folded(text), 0
        while at < len(folded):
            for length in self._lengths.get(folded[at : at + LEAST], ()):
                kind = self._kinds.get(folded[at : at + length])
                if kind and _whole(folded, at, at + length):
                    yield Found(at, at + length, kind)
                    at += length
                    break
            else:
                at += 1

    def _count(self, name: str, kind: str, change: int) -> None:
        name = _folded(read(name).text.strip())
        start, length = name[:LEAST], len(name)
        if length < LEAST:
            return
        self._added[name, kind] += change
        self._starting[start, length] += change
        self._kinds[name] = next((kind for kind in KINDS if self._added[name, kind]), "")
        lengths = {*self._lengths.get(start, ()), length}
        self._lengths[start] = tuple(sorted((each for each in lengths if self._starting[start, each]), reverse=True))
        self._forget(name, kind, start, length)

    def _forget(self, name: str, kind: str, start: str, length: int) -> None:
        """Leave nothing behind of what was removed as often as it was added."""
        if not self._added[name, kind]:
            del self._added[name, kind]
        if not self._starting[start, length]:
            del self._starting[start, length]
        if not self._kinds[name]:
            del self._kinds[name]
        if not self._lengths[start]:
            del self._lengths[start]


def _folded(text: str) -> str:
    """In small letters, equally long."""
    return text.replace("İ", "I").lower()


def _whole(text: str, start: int, end: int) -> bool:
    """Whether no Latin word or number goes on beyond the span's ends."""
    before, after = text[start - 1 : start + 1] if start else "", text[end - 1 : end + 1]
    return not any(len(pair) == 2 and pair.isascii() and pair.isalnum() for pair in (before, after))
