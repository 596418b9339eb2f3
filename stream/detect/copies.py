"""Copies among the texts behind an alert: the same words from many hands are told, not hidden and not discounted.

Keeps the fingerprints of the texts of a window, by product or category. What it tells depends on the set of texts
alone, not on the order they came in.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

from stream.preprocess.duplicates import near_duplicates
from stream.records import Alert

FEW: Final = 3  # copies: fewer are chance


class Copies:
    """Fingerprints of the texts of the last ``window_ms``; a scope is ``Key.shard``."""

    def __init__(self, window_ms: int) -> None:
        self._window = window_ms
        self.texts: dict[str, list[tuple[int, str, str]]] = defaultdict(list)  # scope: (ts, signal id, fingerprint)

    def add(self, scope: str, ts: int, signal_id: str, fingerprint: str) -> None:
        self.texts[scope].append((ts, signal_id, fingerprint))

    def forget(self, now: int) -> None:
        """Drop what no window that ends at or after ``now`` (epoch ms) can hold."""
        for scope, texts in list(self.texts.items()):
            kept = [text for text in texts if text[0] >= now - self._window]
            if kept:
                self.texts[scope] = kept
            else:
                del self.texts[scope]

    def note(self, alert: Alert) -> str:
        """How many of the texts in the alert's window are near-duplicates of another one; "" for none to speak of."""
        texts = sorted(
            text
            for text in self.texts.get(alert.product_id or alert.category, ())
            if alert.window_start <= text[0] < alert.window_end
        )
        copies = sum(first >= 0 for first in near_duplicates([int(text[2], 16) for text in texts]))
        return f"{copies} of {len(texts)} texts repeat another one" if copies >= FEW else ""

    def dump(self) -> dict[str, list[Any]]:
        return {scope: list(map(list, texts)) for scope, texts in self.texts.items()}

    def load(self, state: dict[str, list[Any]]) -> None:
        for scope, texts in state.items():
            self.texts[scope] = [(ts, signal_id, fingerprint) for ts, signal_id, fingerprint in texts]
