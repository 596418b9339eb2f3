"""What goes wrong in the simulated shop, and whether the alerts noticed.

An :class:`Incident` adds texts (and the clicks that go with them) to the shop's ordinary crowd between ``start`` and
``end``. A *promotion* triples the volume and leaves the mix as it was: nothing an operator should be woken for.
:func:`match_alerts` lays the alerts beside this ground truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import orjson

from serving.labels import ASPECTS, DEMANDS
from stream.detect.unmet import UNLISTED
from stream.simulate.catalog import Product

MINUTE = 60_000
HOUR = 60 * MINUTE
GRACE_MS = 30 * MINUTE
LABELS = {
    "negative_spike": ASPECTS, "demand_surge": DEMANDS, "price_sensitivity": ("discount",), "stock_risk": ("stock",),
    "promotion": ("",),
}  # fmt: skip


Kind = Literal["negative_spike", "demand_surge", "price_sensitivity", "stock_risk", "unmet_demand", "promotion"]


@dataclass(frozen=True, slots=True)
class Incident:
    """One incident; ``product_id`` is empty where it concerns a whole category, or what is not sold."""

    kind: Kind
    label: str  # the aspect, demand or term, "stock"; "" for a promotion
    product_id: str
    category: str  # UNLISTED for unmet demand
    start: int
    end: int
    rate: float = 0.0  # texts about it in an hour, over and above the ordinary ones
    factor: float = 1.0  # a promotion multiplies everything by this

    @property
    def scope(self) -> str:
        return "product" if self.product_id else "shop" if self.kind == "unmet_demand" else "category"

    def overlap(self, begin: int, end: int) -> tuple[int, int]:
        """The part of [begin, end) in which the incident is on; empty: (x, x)."""
        first = max(begin, self.start)
        return first, max(first, min(end, self.end))

    def check(self, catalog: Mapping[str, Product]) -> None:
        """Raises ValueError where the incident cannot happen in this shop."""
        labels = LABELS.get(self.kind, (self.label,))
        if self.label not in labels:
            raise ValueError(f"a {self.kind} cannot have the label {self.label!r}; it takes one of {', '.join(labels)}")
        if self.product_id and self.product_id not in catalog:
            raise ValueError(f"incident at product {self.product_id!r}, but the shop sells {', '.join(catalog)}")
        categories = {product.category for product in catalog.values()}
        if self.kind == "unmet_demand":
            categories = {UNLISTED}
        if self.kind == "stock_risk" and not self.product_id:
            raise ValueError("a stock_risk is one of a product: give its product_id")
        if self.category not in categories:
            raise ValueError(f"incident in category {self.category!r}, but the shop has {', '.join(categories)}")
        if self.end <= self.start:
            raise ValueError("an incident has to end after its start")


def demo_incidents(catalog: Sequence[Product], start: int, hours: float, texts_per_hour: float) -> list[Incident]:
    """Five incidents and a promotion, evenly spread over what follows the first 12 hours (or the first half)."""
    history = min(12.0, hours / 2)
    slot = (hours - history) * HOUR / 6
    rate = max(12.0, texts_per_hour / 5)
    scenes: list[tuple[Kind, str, Product, bool, int]] = [
        ("negative_spike", "packaging", catalog[1], True, 75),
        ("demand_surge", "restock", catalog[6], True, 90),
        ("negative_spike", "authenticity", catalog[7], True, 90),
        ("negative_spike", "logistics", catalog[9], True, 75),
        ("promotion", "", catalog[5], False, 120),
        ("demand_surge", "discount", catalog[4], False, 60),
    ]
    incidents = []
    for place, (kind, label, product, of_product, minutes) in enumerate(scenes):
        begin = start + int(history * HOUR + (place + 0.25) * slot)
        incidents.append(
            Incident(
                kind=kind,
                label=label,
                product_id=product.product_id if of_product else "",
                category=product.category,
                start=begin,
                end=begin + int(min(minutes * MINUTE, 0.7 * slot)),
                rate=0.0 if kind == "promotion" else rate,
                factor=3.0 if kind == "promotion" else 1.0,
            )
        )
    return incidents


def save_incidents(incidents: Iterable[Incident], path: Path) -> None:
    path.write_bytes(orjson.dumps([asdict(incident) for incident in incidents], option=orjson.OPT_INDENT_2))


def load_incidents(path: Path) -> list[Incident]:
    return [Incident(**fields) for fields in orjson.loads(path.read_bytes())]


@dataclass(slots=True)
class Finding:
    """One line of the comparison: an incident that was found or missed, or an alert that has no incident."""

    verdict: Literal["found", "missed", "false alarm"]
    incident: Incident | None = None
    alert: dict[str, Any] | None = None
    late_ms: int = 0  # from the start of the incident to ``opened_at``
    quotes: list[str] = field(default_factory=list)
    also: list[str] = field(default_factory=list)  # ids of further alerts that the incident explains
    note: str = ""


def match_alerts(
    incidents: Iterable[Incident], alerts: Iterable[Mapping[str, Any]], grace_ms: int = GRACE_MS
) -> list[Finding]:
    """Lays ``alerts`` (dictionaries of ``stream.records.Alert``, any number of states each) beside ``incidents``.

    An alert finds an incident when kind and label agree, it opened between the start and ``grace_ms`` after the end,
    and it names the same product (or the same category, for an incident of a category). A restock incident of a
    product may also be found at category level; ``note`` says so. The first such alert counts. Further ones, alerts
    with its label that look at one product of the category, whatever else rises meanwhile on the product or its whole
    category (fakes are sent back, late parcels asked for), and what is searched in vain while something is sold out are
    explained (``also``): neither a find nor a false alarm.
    Every other alert is a false alarm, also during a promotion.
    """
    latest: dict[str, dict[str, Any]] = {}
    for state in alerts:
        known = latest.get(state["alert_id"])
        if known is None or state["updated_at"] >= known["updated_at"]:
            latest[state["alert_id"]] = dict(state)
    ordered = sorted(latest.values(), key=lambda alert: (alert["opened_at"], alert["alert_id"]))

    findings: list[Finding] = []
    explained: set[str] = set()
    for incident in sorted(incidents, key=lambda incident: incident.start):
        if incident.kind == "promotion":
            continue
        related = [alert for alert in ordered if _related(incident, alert, grace_ms)]
        explained.update(alert["alert_id"] for alert in related)
        finders = [alert for alert in related if _finds(incident, alert)]
        if not finders:
            findings.append(Finding("missed", incident, also=[alert["alert_id"] for alert in related]))
            continue
        first = finders[0]
        findings.append(
            Finding(
                "found",
                incident,
                first,
                late_ms=first["opened_at"] - incident.start,
                quotes=[quote["text"] for quote in first["evidence"]],
                also=[alert["alert_id"] for alert in related if alert is not first],
                note="" if first["scope"] == incident.scope else "found at category level",
            )
        )
    for alert in ordered:
        if alert["alert_id"] not in explained:
            quotes = [quote["text"] for quote in alert["evidence"]]
            findings.append(Finding("false alarm", alert=alert, quotes=quotes))
    return findings


def _related(incident: Incident, alert: Mapping[str, Any], grace_ms: int) -> bool:
    """In its time: on its product or category, the same label at a product of the category, or what it explains."""
    if not incident.start <= alert["opened_at"] <= incident.end + grace_ms:
        return False
    if alert["kind"] == "unmet_demand" and incident.label == "restock":
        return True
    if alert["category"] != incident.category:
        return False
    if alert["product_id"] in ("", incident.product_id):
        return True
    return not incident.product_id and bool(alert["label"] == incident.label)


def _finds(incident: Incident, alert: Mapping[str, Any]) -> bool:
    if (alert["kind"], alert["label"]) != (incident.kind, incident.label):
        return False
    at_category = alert["scope"] == "category" and incident.label == "restock"
    return alert["scope"] == incident.scope or at_category
