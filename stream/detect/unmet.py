"""What customers ask for and the shop does not have: requests, the terms they are known by, and clusters of terms.

A *request* is a search without results, or a text that asks for something: a product to come back, a size, a colour, a
feature. It is known by its key terms, a sorted tuple of at most :data:`MOST_TERMS` words, and counts once for each
cluster that these belong to.

A *cluster* is called by its leading term. A term joins the cluster of a more frequent one when at least half of its
requests name both ("露营 帐篷"), and leads one of its own else. A word that goes with everything ("黑色") has no
followers: a quarter of the requests for a leader must name it alone or with the term in question. A term may still move
until it has been counted :data:`SETTLED` times or an alert on its cluster is open; from then on it stays, until it is
forgotten. So the series of a cluster means the same from one pane to the next, and clusters do not merge later.

Promises: what is counted in a pane is a sum, whatever the order; clusters depend on the panes alone, and taking one in
costs what was asked in it. Remembered are at most ``most`` terms, the faintest are forgotten, and of each term the
:data:`MOST_BESIDE` that it was most often named with.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from zlib import crc32

from stream.detect.cells import VOLUME, Cell, Key, merge
from stream.recommend.catalogue import tokens

KIND: Final = "unmet_demand"
UNLISTED: Final = "unlisted"  # the category of what is not in the catalogue
PLACE: Final = f"category/{UNLISTED}"  # its key in ``signals``: one lane sees all requests, for clusters know no border
#: Demands that ask for something, with which a text may be a request.
ASKING: Final = frozenset({"restock", "feature_request", "product_question", "compatibility"})
#: Kinds of entities that say what is asked for.
WANTED: Final = frozenset({"size", "colour", "model", "brand"})
#: Words by which people ask, whatever they ask for.
ASK_WORDS: Final = frozenset((
    "补货", "到货", "有货", "现货", "缺货", "没货", "断货", "上架", "库存", "能用", "可用", "适用", "适合", "适配",
    "兼容", "支持", "建议", "希望", "增加", "推出", "返场", "客服", "请问", "restock", "restocked", "stock",
    "available", "back", "again", "support", "supports", "compatible", "work", "works", "wish", "please", "add",
    "want", "need", "sell",
))  # fmt: skip

MOST_TERMS: Final = 6
TERM_CHARACTERS: Final = 24
SETTLED: Final = 5.0
HALF_LIFE_MS: Final = 7 * 86_400_000
MOST_BESIDE: Final = 8
TOLD: Final = 5  # terms that an alert names

Terms = tuple[str, ...]
Requests = dict[Terms, Cell]


# Requests


def key_terms(words: Iterable[str]) -> Terms:
    """What the first words of a request say of the thing; empty where they only ask."""
    found = {word[:TERM_CHARACTERS]: None for word in map(str.casefold, words) if len(word) > 1}
    return tuple(sorted([word for word in found if word not in ASK_WORDS][:MOST_TERMS]))


def missing_terms(signal: Mapping[str, Any], listed: str) -> Terms:
    """The key terms of a signal that asks for what is not in ``listed``, the catalogue's text of the product in
    question (or ""); empty for any other signal."""
    if not ASKING.intersection(demand["demand"] for demand in signal["demands"]):
        return ()
    named = [entity["text"] for entity in signal["entities"] if entity["type"] in WANTED]
    there = frozenset(tokens(listed))
    return key_terms(word for word in (*named, *signal["keywords"]) if not there.issuperset(tokens(word)))


def beyond(requests: Requests, limit: int) -> list[Terms]:
    """What is too many when there is room for ``limit``: a checksum decides, not the order of arrival."""
    return sorted(requests, key=lambda terms: (crc32("\0".join(terms).encode()), terms))[limit:]


def cells(requests: Requests, clusters: Clusters) -> dict[Key, Cell]:
    """What the detectors count of the requests of a pane."""
    found: dict[Key, Cell] = {}
    total = Cell()
    for terms, cell in requests.items():
        total = merge(total, Cell(cell.reviews, cell.chats, cell.clicks))
        for label in {clusters.of(term) for term in terms}:
            key = Key(KIND, "shop", "", UNLISTED, label)
            found[key] = merge(found.get(key, Cell()), cell)
    if requests:
        found[Key(VOLUME, "shop", "", UNLISTED, "")] = total
    return found


# Clusters


@dataclass(slots=True)
class Term:
    """How often it was asked for, and with what; sums as of pane ``at``, forgotten by and by."""

    at: int
    cluster: str
    count: float = 0.0
    alone: float = 0.0
    settled: bool = False
    beside: dict[str, float] = field(default_factory=dict)

    def forget(self, now: int, decay: float) -> None:
        if self.at < now:
            factor = decay ** (now - self.at)
            self.at, self.count, self.alone = now, self.count * factor, self.alone * factor
            self.beside = {term: count * factor for term, count in self.beside.items()}

    def meet(self, others: Iterable[str], count: float) -> None:
        for other in others:
            self.beside[other] = self.beside.get(other, 0.0) + count
        if len(self.beside) > 2 * MOST_BESIDE:
            best = sorted(self.beside.items(), key=lambda item: (-item[1], item[0]))
            self.beside = dict(best[:MOST_BESIDE])

    def to_list(self) -> list[Any]:
        return [self.at, self.cluster, self.count, self.alone, self.settled, self.beside]


class Clusters:
    """The terms that were asked for. ``changed`` holds those that are to be saved."""

    def __init__(self, pane_ms: int, most: int = 20_000) -> None:
        self.changed: set[str] = set()
        self._terms: dict[str, Term] = {}
        self._pane_ms, self._most = pane_ms, most
        self._decay: float = 0.5 ** (pane_ms / HALF_LIFE_MS)

    def __iter__(self) -> Iterator[str]:
        return iter(self._terms)

    def of(self, term: str) -> str:
        """The cluster of a term; itself for one that was never asked for."""
        known = self._terms.get(term)
        return known.cluster if known else term

    def learn(self, end: int, requests: Requests, held: Collection[str] = ()) -> None:
        """Take in the requests of a pane at its ``end`` (epoch ms). The clusters in ``held`` do not lose a term."""
        pane = end // self._pane_ms
        met: dict[str, Term] = {}
        for terms, cell in sorted(requests.items(), key=lambda item: item[0]):
            for name in terms:
                term = met[name] = self._at(name, pane)
                term.count += cell.observed
                term.alone += cell.observed * (len(terms) == 1)
                term.meet((other for other in terms if other != name), cell.observed)
        for name, term in sorted(met.items(), key=lambda item: (-item[1].count, item[0])):
            if not term.settled and term.cluster not in held:
                term.cluster = self._home(name, term, pane)
                term.settled = term.count >= SETTLED
        self.changed.update(met)
        self._make_room(pane)

    def names(self, cluster: str, end: int) -> list[str]:
        """The terms that say at ``end`` what a cluster is about, its leading one first."""
        pane = end // self._pane_ms
        members = sorted(
            (-self._level(term, pane), name)
            for name, term in self._terms.items()
            if term.cluster == cluster and name != cluster
        )
        return [cluster, *(name for _, name in members[: TOLD - 1])]

    def row(self, name: str) -> list[Any] | None:
        """A term as plain JSON, exact; None for one that is forgotten."""
        term = self._terms.get(name)
        return term.to_list() if term else None

    def restore(self, name: str, row: list[Any]) -> None:
        self._terms[name] = Term(*row)

    def _at(self, name: str, pane: int) -> Term:
        term = self._terms.get(name)
        if term is None:
            term = self._terms[name] = Term(pane, name)
        term.forget(pane, self._decay)
        return term

    def _level(self, term: Term, pane: int) -> float:
        return term.count * self._decay ** (pane - term.at)

    def _home(self, name: str, term: Term, pane: int) -> str:
        """The cluster where a term belongs by now."""
        best = (0.0, "")
        for other_name, both in term.beside.items():
            other = self._terms.get(other_name)
            if other is None or both < max(2.0, term.count / 2):
                continue
            faded = self._decay ** (pane - other.at)
            leads = other.settled or (-other.count * faded, other_name) < (-term.count, name)
            if leads and both + other.alone * faded >= other.count * faded / 4:
                best = min(best, (-both, other_name))
        return self._terms[best[1]].cluster if best[1] else name

    def _make_room(self, pane: int) -> None:
        if len(self._terms) <= self._most:
            return
        faint = sorted((self._level(term, pane), name) for name, term in self._terms.items())
        for _, name in faint[: len(faint) - self._most * 7 // 8]:
            del self._terms[name]
            self.changed.add(name)
