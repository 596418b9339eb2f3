"""``make bench-detect``: what the detectors find, how late, and whether the budget of false alarms holds.

Outbreaks after Noufaily et al. (2013): 42 scenarios of weekly negative binomial counts with trend, season and
overdispersion, twelve years each, a budget of one false alarm in 52 buckets ("a key-year"). An outbreak's cases are
Poisson. "Three standard deviations of the baseline" are read in three ways: every week of four holds as
many (``steady``); the cases follow the paper's log-normal(0, 0.5) and its fullest week does (``peak``); or the whole
outbreak does, as in the paper (``total``). Peers see some of the counts of ``peak``. Nothing is frozen here, since an
alarm a year would take the highest weeks out of a baseline; past outbreaks are down-weighted, as the regression does.

Then at the shop's own pace of five minutes: false alarms of each kind of test over 28 days at a budget of one in seven
days, a ramp of 5 % a day, the same incident twice, whole shops through the engine under the shipped rules, and the cost
of 100 000 keys. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.peers.detectors import PEERS
from bench.report import result
from stream.detect import DEFAULT_RULES, Cell, Engine, Key
from stream.detect.budget import threshold
from stream.detect.evidence import KINDS
from stream.detect.forecast import DAY, WEEK, Settings
from stream.detect.panel import Panel

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
YEAR: Final = 52  # buckets
YEARS: Final = 12
LAST: Final = 49  # buckets at the end in which an outbreak begins
SPAN: Final = 4  # buckets of an outbreak that hold its cases but for 1 %
FADING: Final = (0.5, 0.417, 0.069, 0.014)  # of its cases in each: log-normal(0, 0.5)
STEADY: Final = (0.25, 0.25, 0.25, 0.25)
SIZES: Final = {"steady": (STEADY, 12.0), "peak": (FADING, 6.0), "total": (FADING, 3.0)}  # shape, deviations in all
WEEKLY: Final = Settings(
    pane_ms=WEEK, windows=(1, 2, 4), ring=4, half_life=2 * YEAR * WEEK,
    cycles=((YEAR * WEEK, 13, 4.0), (YEAR * WEEK, 52, 20.0)),
    season_half_life=5 * YEAR * WEEK, memory=3 * YEAR * WEEK, drift=0.3, day=YEAR * WEEK, together=4 * WEEK,
    run_panes=26, prior_runs=10.0,
)  # fmt: skip


class Scenario(NamedTuple):
    """Of the paper's table: log mean, trend a week, season, harmonics, dispersion (variance over mean)."""

    theta: float
    beta: float
    gamma1: float
    gamma2: float
    harmonics: int
    phi: float

    def mean(self) -> Floats:
        week = np.arange(YEAR * YEARS)
        season = sum(
            self.gamma1 * np.cos(2 * np.pi * j * week / YEAR) + self.gamma2 * np.sin(2 * np.pi * j * week / YEAR)
            for j in range(1, self.harmonics + 1)
        )
        return np.asarray(np.exp(self.theta + self.beta * week + season))


SETS: Final = (  # theta, beta, gamma1, gamma2, phi
    (0.1, 0.0025, 0.6, 0.6, 1.5), (-2, 0.005, 0.1, 0.3, 2), (1.5, 0.003, 0.2, -0.4, 1), (0.5, 0.002, 0.5, 0.5, 5),
    (2.5, 0.001, 1, 0.1, 3), (3.75, 0.001, 0.1, -0.1, 1.1), (5, 0.0001, 0.05, 0.01, 1.2),
)  # fmt: skip
SCENARIOS: Final = tuple(
    Scenario(theta, beta * trend, gamma1, gamma2, harmonics, phi)
    for theta, beta, gamma1, gamma2, phi in SETS
    for trend in (0, 1)
    for harmonics in (0, 1, 2)
)


def draw(rng: np.random.Generator, mean: Floats, phi: float, series: int) -> Floats:
    """Counts (buckets x series) with this mean and ``phi`` times it as variance."""
    shape = (len(mean), series)
    if phi <= 1:
        return rng.poisson(mean[:, None], shape).astype(float)
    return rng.negative_binomial(mean[:, None] / (phi - 1), 1 / phi, shape).astype(float)


def outbreaks(rng: np.random.Generator, mean: Floats, phi: float, series: int, size: str) -> tuple[Floats, Any]:
    """(Cases by bucket and series, the buckets they begin in)."""
    shape, cases = SIZES[size]
    begin = len(mean) - LAST + rng.integers(0, LAST - SPAN, series)
    number = rng.poisson(cases * np.sqrt(phi * mean[begin]))
    added = np.zeros((len(mean), series))
    split = np.array([rng.multinomial(count, shape) for count in number]).T
    for after in range(SPAN):
        added[begin + after, np.arange(series)] = split[after]
    return added, begin


class Alarms(NamedTuple):
    """By bucket and series: above the threshold, and the buckets in which an alarm opens."""

    above: Mask
    opened: Mask


def alarms(surprise: Iterable[Floats], limit: float, quiet: int) -> Alarms:
    """An alarm is over after ``quiet`` buckets without any evidence."""
    above, opened, calm = [], [], None
    for row in surprise:
        calm = np.full(len(row), quiet) if calm is None else calm
        above.append(row >= limit)
        opened.append(above[-1] & (calm >= quiet))
        calm = np.where(above[-1] | ((row > 0) & (calm < quiet)), 0, calm + 1)
    return Alarms(np.array(above), np.array(opened))


def watch(
    settings: Settings, counts: Floats, limit: float, first: int = 0, freeze: bool = False, parents: Any = None
) -> dict[str, Alarms]:
    """Every kind of test over ``counts`` (panes x series), each alone.

    ``freeze``: nothing is learnt while a burst is open; ``parents``: none unless given.
    """
    panel = Panel(settings)
    series = counts.shape[1]
    panel.place(np.full(series, -1) if parents is None else parents, np.zeros(series, bool))
    frozen, calm = np.zeros(series, bool), np.full(series, settings.ring)
    found: dict[str, list[Floats]] = {kind: [] for kind in KINDS}
    for pane, seen in enumerate(counts):
        step = panel.step(first + pane, seen, frozen=frozen if freeze else None)
        for kind in KINDS:
            found[kind].append(step.surprise[kind])
        burst = step.surprise["burst"]
        above = burst >= limit
        calm = np.where(above | ((burst > 0) & frozen), 0, calm + 1)
        frozen = (above | frozen) & (calm < settings.ring)
    return {kind: alarms(rows, limit, settings.ring) for kind, rows in found.items()}


class Verdict(NamedTuple):
    """Of one detector in one scenario."""

    false: float  # alarms a key-year, over the budget
    found: float  # part of the outbreaks
    delay: float  # median, in buckets after the first


def judge(quiet: Alarms, outbreak: Mask, begin: Any, first: int) -> Verdict:
    """``quiet``: without outbreaks, counted from bucket ``first`` on."""
    years = (len(quiet.opened) - first) * quiet.opened.shape[1] / YEAR
    span = np.array([outbreak[begin + after, np.arange(len(begin))] for after in range(SPAN)])
    found, delay = span.any(axis=0), span.argmax(axis=0)
    return Verdict(
        float(quiet.opened[first:].sum() / years),
        float(found.mean()),
        float(np.median(delay[found])) if found.any() else SPAN,
    )


def flags_to_alarms(flags: Mask) -> Alarms:
    """A peer's flags, with the same rule for when an alarm is over: four buckets without."""
    return alarms([np.where(row, 1.0, 0.0) for row in flags], 1.0, WEEKLY.ring)


def noufaily(series: int, peers: int, size: str, seed: int = 1) -> dict[str, list[Verdict]]:
    """Verdicts by detector, one for each scenario. ``peers``: how many of the series they see."""
    rng = np.random.default_rng(seed)
    verdicts: dict[str, list[Verdict]] = {}
    quiet_counts, sick_counts, begins = [], [], []
    for scenario in SCENARIOS:
        mean = scenario.mean()
        quiet = draw(rng, mean, scenario.phi, series)
        added, begin = outbreaks(rng, mean, scenario.phi, series, size)
        quiet_counts.append(quiet)
        sick_counts.append(quiet + added)
        begins.append(begin)
    limit = float(np.log10(YEAR))
    first = 6 * YEAR
    both = watch(WEEKLY, np.concatenate(quiet_counts + sick_counts, axis=1), limit)["burst"]
    half = series * len(SCENARIOS)
    for number, begin in enumerate(begins):
        mine, sick = (
            slice(number * series, (number + 1) * series),
            slice(half + number * series, half + (number + 1) * series),
        )
        calm = Alarms(both.above[:, mine], both.opened[:, mine])
        verdicts.setdefault("Demand Radar", []).append(judge(calm, both.above[:, sick], begin, first))
    start = YEAR * (YEARS - 2)
    for name, peer in PEERS.items() if peers else ():
        for healthy, ill, begin in zip(quiet_counts, sick_counts, begins, strict=True):
            flags = peer(np.concatenate([healthy[:, :peers], ill[:, :peers]], axis=1), start, 1 / YEAR)
            calm = flags_to_alarms(flags[:, :peers])
            verdicts.setdefault(name, []).append(judge(calm, flags[:, peers:], begin[:peers], start))
    return verdicts


# At the shop's own pace

SHOP: Final = Settings()
QUARTERS: Final = Settings(pane_ms=900_000, run_panes=96)  # panes of 15 minutes, where weeks are simulated
DAYS: Final = 21
HOURLY: Final = np.array([2, 1, 1, 1, 1, 2, 4, 6, 9, 11, 12, 13, 12, 11, 11, 11, 12, 13, 15, 18, 20, 18, 12, 6]) / 9.25


def rates(settings: Settings, a_day: Floats, days: int) -> Floats:
    """Expected counts per pane (panes x series): hours of a shop's day, a fifth more at weekends."""
    panes = DAY // settings.pane_ms
    hours = np.interp(np.arange(panes) / panes * 24, np.arange(25), np.append(HOURLY, HOURLY[0]))
    week = np.where(np.arange(days) % 7 >= 5, 1.2, 0.92)
    shape = (week[:, None] * (hours / hours.sum())[None, :]).ravel()
    return np.asarray(shape[:, None] * a_day[None, :])


def overdispersed(rng: np.random.Generator, mean: Floats, phi: float) -> Floats:
    return (
        rng.negative_binomial(mean / (phi - 1), 1 / phi).astype(float) if phi > 1 else rng.poisson(mean).astype(float)
    )


def null_alarms(series: int) -> dict[str, float]:
    """False alarms over the budget of one in seven days a key and kind, after a week; Poisson and phi = 2; of series
    beside siblings under one parent, and of series alone."""
    rng = np.random.default_rng(3)
    volumes = (0.5, 5.0, 50.0, 500.0)
    tops = len(volumes)
    parents = np.concatenate([np.full(tops, -1), np.repeat(np.arange(tops), series)])
    figures = {}
    for phi in (1.0, 2.0):
        counts = overdispersed(rng, rates(SHOP, np.repeat(volumes, series), DAYS), phi)
        whole = counts.reshape(len(counts), tops, series).sum(axis=2)
        limit = threshold(SHOP.pane_ms, key_days=7)
        for kin in (True, False):
            found = watch(
                SHOP, np.concatenate([whole, counts], axis=1), limit, freeze=True,
                parents=parents if kin else np.full(len(parents), -1),
            )  # fmt: skip
            for kind, alarm in found.items():
                opened = alarm.opened[7 * DAY // SHOP.pane_ms :, tops:].reshape(-1, tops, series).sum(axis=(0, 2))
                for volume, number in zip(volumes, opened, strict=True):
                    name = f"{kind}, phi {phi:g}, {volume:g} a day, {'with siblings' if kin else 'alone'}"
                    figures[name] = round(float(number) / (series * (DAYS - 7) / 7), 2)
    return figures


def ramp_days(series: int) -> dict[str, float]:
    """Days from the start of a ramp of 5 % a day to its alarm, at a budget of one in 30 days; four calm weeks before.

    Ramp and burst tests share the budget.
    """
    rng = np.random.default_rng(4)
    volumes, calm, a_day = (20, 100, 500), 28, DAY // QUARTERS.pane_ms
    mean = rates(QUARTERS, np.repeat(np.array(volumes, float), series), calm + 14)
    day = np.arange(len(mean)) // a_day - calm
    counts = rng.poisson(mean * np.where(day >= 0, 1.05 ** (day + 1), 1.0)[:, None]).astype(float)
    found = watch(QUARTERS, counts, threshold(QUARTERS.pane_ms, key_days=30, tests=2))
    above = (found["ramp"].above | found["burst"].above)[calm * a_day :]
    days = np.where(above.any(axis=0), (above.argmax(axis=0) + 1) / a_day, np.inf).reshape(len(volumes), series)
    return {
        f"{name}, {volume} a day": round(float(value), 2)
        for volume, row in zip(volumes, days, strict=True)
        for name, value in (("median days", np.median(row)), ("within 10 days", (row <= 10).mean()))
    }


def second_incident(series: int) -> dict[str, float]:
    """Part of identical incidents (an hour at ten times the rate) found the first time, and a week later of those."""
    rng = np.random.default_rng(5)
    mean = rates(QUARTERS, np.repeat(50.0, series), 21)
    hour = 3_600_000 // QUARTERS.pane_ms
    noon = [(day * 24 + 12) * hour for day in (12, 19)]
    for pane in noon:
        mean[pane : pane + hour] *= 10
    found = watch(QUARTERS, rng.poisson(mean).astype(float), threshold(QUARTERS.pane_ms, key_days=30), freeze=True)
    first, second = (found["burst"].opened[pane : pane + 2 * hour].any(axis=0) for pane in noon)
    return {"first": round(float(first.mean()), 3), "second": round(float(second[first].mean()), 3)}


def cost(series: int = 100_000) -> dict[str, float]:
    """Seconds of a step over so many keys on this core, and bytes a key."""
    rng = np.random.default_rng(6)
    panel = Panel(SHOP)
    parents = np.where(np.arange(series) < 100, -1, np.arange(series) % 100)
    panel.place(parents, np.arange(series) % 4 == 1)
    rate = 10 ** rng.uniform(-3, 0.5, series)
    seconds = []
    for pane in range(24):
        counts, texts = rng.poisson(rate).astype(float), np.where(panel.shares, 20.0, 1.0)
        begun = time.perf_counter()
        panel.step(pane, counts, texts)
        seconds.append(time.perf_counter() - begun)
    return {
        "seconds a pane, median": round(float(np.median(seconds)), 3),
        "seconds a pane, most": round(max(seconds), 3),
        "bytes a key": panel.state.bytes_a_series,
    }


def whole_engine(seeds: int, products: int = 40, days: int = 35) -> dict[str, float]:
    """Shops through the engine as a worker runs it, under the shipped rules, in panes of 15 minutes: false alarms a day
    (the budget allows 0.5) in the first week and after, and incidents: twelve more counts within an hour, from the
    second week on."""
    a_day = DAY // QUARTERS.pane_ms
    start = 1_773_590_400_000 // QUARTERS.pane_ms  # a Monday in March: no known day for weeks
    young = old = found = openings = 0
    delays: list[float] = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        mean = rates(QUARTERS, 10 ** rng.uniform(-0.3, 1.7, products), days)
        counts = rng.poisson(mean)
        struck = {int(n): int(rng.integers(9 * a_day, (days - 1) * a_day)) for n in rng.permutation(products)[:6]}
        for number, pane in struck.items():
            np.add.at(counts[:, number], pane + rng.integers(0, 4, 12), 1)
        keys = [Key("demand_surge", "product", f"p{number}", "c", "restock") for number in range(products)]
        engine = Engine(DEFAULT_RULES, QUARTERS.pane_ms, window_panes=4, half_life_panes=a_day)
        heard: set[int] = set()
        for pane, row in enumerate(counts):
            cells = {keys[n]: Cell(chats=float(row[n])) for n in np.flatnonzero(row)}
            cells |= {key.volume: Cell(chats=cell.chats + rng.poisson(3)) for key, cell in cells.items()}
            for alert in engine.step((start + pane) * QUARTERS.pane_ms, cells):
                if not alert.cause.startswith("opened"):
                    continue
                number = int(alert.product_id[1:])
                late = pane - struck.get(number, days * a_day)
                if 0 <= late <= 8:
                    openings += 1
                    if number not in heard:
                        delays.append((late + 1) * QUARTERS.pane_ms / 60_000)
                    heard.add(number)
                elif pane < 8 * a_day:
                    young += 1
                else:
                    old += 1
        found += len(heard)
    return {
        "false alarms a day, first eight days": round(young / (8 * seeds), 3),
        "false alarms a day, later": round(old / ((days - 8) * seeds), 3),
        "incidents found": round(found / (6 * seeds), 3),
        "median delay, minutes": float(np.median(delays)) if delays else 0.0,
        "openings per incident found": round(openings / max(1, found), 2),
    }


def summary(verdicts: dict[str, list[Verdict]]) -> dict[str, Any]:
    return {
        name: {
            "found": round(float(np.mean([verdict.found for verdict in mine])), 3),
            "false": round(float(np.mean([verdict.false for verdict in mine])), 2),
            "false_worst": round(max(verdict.false for verdict in mine), 2),
            "delay": float(np.median([verdict.delay for verdict in mine])),
        }
        for name, mine in verdicts.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--series", type=int, default=150, help="of each of the 42 scenarios")
    parser.add_argument("--peers", type=int, default=20, help="how many of them the peers see")
    options = parser.parse_args()
    console = Console(stderr=True)
    figures: dict[str, Any] = {}
    for size in SIZES:
        figures[size] = summary(noufaily(options.series, options.peers if size == "peak" else 0, size))
        table = Table("outbreaks: " + size, "found", "false / budget", "worst scenario", "median delay")
        for name, row in figures[size].items():
            table.add_row(name, *(str(row[column]) for column in ("found", "false", "false_worst", "delay")))
        console.print(table)
    parts: dict[str, Callable[[], dict[str, float]]] = {
        "null": lambda: null_alarms(40),
        "ramp": lambda: ramp_days(20),
        "second_incident": lambda: second_incident(100),
        "engine": lambda: whole_engine(8),
        "cost": cost,
    }
    for name, part in parts.items():
        figures[name] = part()
        table = Table(name, "")
        for label, value in figures[name].items():
            table.add_row(label, str(value))
        console.print(table)
    print(result("detect", figures, ("numpy", *(["river"] if "River Gaussian" in PEERS else []))))


if __name__ == "__main__":
    main()
