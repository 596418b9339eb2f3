"""What shoppers searched in vain, counted by pane: masked, in one spelling, bounded.

A pane has room for :data:`MOST_QUERIES` different queries, the first ones in event time; the others are only counted.
What is told of a closed pane are the :data:`MOST_TOLD` most frequent ones, equal counts by text.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import lru_cache
from typing import Any, Final

from stream.checkpoint import Changes, Segments
from stream.journal import Journal
from stream.preprocess import mask
from stream.preprocess.private import TAG

MOST_QUERIES: Final = 5_000
MOST_TOLD: Final = 200
QUERY_CHARACTERS: Final = 64


class Queries:
    """The open panes of a click lane, by their start."""

    def __init__(self) -> None:
        self.panes: dict[int, Counter[str]] = defaultdict(Counter)
        self._journal = Journal[str]("queries", self.panes.__getitem__, lambda start, query: self.panes[start][query])

    def add(self, start: int, query: str) -> bool:
        """Count a search without results (one without words says nothing); False where there is no room."""
        query = normalised(query)
        if not query:
            return True
        pane = self.panes[start]
        if query not in pane and len(pane) >= MOST_QUERIES:
            return False
        pane[query] += 1
        self._journal.changed[start].add(query)
        return True

    def close(self, boundary: int) -> list[tuple[int, Counter[str]]]:
        """The panes that begin before ``boundary``, oldest first."""
        closed = [(start, self.panes.pop(start)) for start in sorted(self.panes) if start < boundary]
        for start, _ in closed:
            self._journal.drop(start)
        return closed

    def dump(self) -> Changes:
        return self._journal.dump()

    def load(self, segments: Segments) -> None:
        for start, query, count in self._journal.load(segments):
            self.panes[start][query] = count


def most_frequent(pane: Counter[str]) -> tuple[list[list[Any]], int]:
    """The most frequent queries with their counts, and how many searches were for others."""
    best = sorted(pane.items(), key=lambda item: (-item[1], item[0]))[:MOST_TOLD]
    return [[query, count] for query, count in best], pane.total() - sum(count for _, count in best)


@lru_cache(maxsize=8_192)
def normalised(query: str) -> str:
    """One spelling: without personal data, in small letters, white space made one, :data:`QUERY_CHARACTERS` at most."""
    return " ".join(TAG.sub(" ", mask(query)).casefold().split())[:QUERY_CHARACTERS]
