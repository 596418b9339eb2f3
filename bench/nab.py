"""``python -m bench.nab``: the detector on the Numenta Anomaly Benchmark, or any folder of ``timestamp,value`` CSVs.

The scorer is our own, after Lavin & Ahmad (2015) and what the published one does: a window counts by its earliest
detection, a detection outside costs more the further it lies from the window before, the first rows of a series are
probation, and one threshold holds for all series, the best for each profile. The null detector is 0, the perfect one
100. Because that threshold has seen the labels, the score with the threshold chosen on the other series
(leave-one-series-out) is told beside it. The last line is one JSON object.

``--windows`` is a JSON object from the path of a series to its labelled windows ``[[first, last], …]``; a series is
found in the folder by its path or by its file name.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.report import result
from stream.detect.budget import threshold
from stream.detect.forecast import Settings
from stream.detect.panel import Panel

Floats = NDArray[np.float64]
PROBATION: Final = 0.15  # of a series, and of 5000 rows at most
LONGEST: Final = 5000
KEY_DAYS: Final = 30.0
PENDING: Final = 3  # panes
QUIET: Final = 36  # panes
GROWN: Final = 2.0
FAR: Final = 3.0  # window lengths after a window: a false alarm costs its full weight from here on


class Profile(NamedTuple):
    """Weights of a found window, a missed one, and a false alarm."""

    found: float
    missed: float
    false: float


PROFILES: Final[Mapping[str, Profile]] = {
    "standard": Profile(1.0, 1.0, 0.11),
    "low_fp": Profile(1.0, 1.0, 0.22),
    "low_fn": Profile(1.0, 2.0, 0.11),
}


class Series(NamedTuple):
    """One file: rows in order; ``windows`` are first and last row (inclusive) of each labelled window."""

    name: str
    times: list[datetime]
    values: Floats
    windows: list[tuple[int, int]]


class Places(NamedTuple):
    """What a detection at each row is worth, before weights."""

    scored: NDArray[np.bool_]  # not probation
    window: NDArray[np.int64]  # number of the window the row lies in, -1 outside
    worth: Floats  # in (0, 1] inside a window, in [-1, 0) outside


def worth(position: Floats) -> Floats:
    """The scaled sigmoid of a position in window lengths: -1 is a window's first row, 0 its end, 1 one length later."""
    near = 2 / (1 + np.exp(5 * np.minimum(position, FAR))) - 1
    return np.where(position >= FAR, -1.0, near)


def places(rows: int, windows: Sequence[tuple[int, int]]) -> Places:
    """The places of a series of ``rows`` rows."""
    index = np.arange(rows)
    inside = np.full(rows, -1)
    position = np.full(rows, FAR)
    for number, (first, last) in enumerate(windows):
        length = last - first + 1
        following = index > last
        position[following] = (index[following] - last) / max(1, length - 1)
        inside[first : last + 1] = number
        position[first : last + 1] = -(last - index[first : last + 1] + 1) / length
    value = np.where(inside >= 0, worth(position) / worth(np.array(-1.0)), worth(position))
    probation = min(int(PROBATION * rows), int(PROBATION * LONGEST))
    return Places(index >= probation, inside, value)


class Gains(NamedTuple):
    """How the raw score of a series moves as the threshold sinks past each of its rows; highest score first."""

    scores: Floats
    moves: Floats
    windows: int  # to be found
    nothing: float  # the raw score of finding nothing


def gains(scores: Floats, where: Places, profile: Profile) -> Gains:
    """The moves of one series. A window moves by how much earlier it is found than before."""
    rows = np.flatnonzero(where.scored)
    rows = rows[np.argsort(-scores[rows], kind="stable")]
    numbers, values = where.window[rows], where.worth[rows]
    moves = np.where(numbers < 0, profile.false * values, 0.0)
    wanted = np.unique(numbers[numbers >= 0])
    for number in wanted:
        mine = np.flatnonzero(numbers == number)
        best = np.maximum.accumulate(profile.found * values[mine])
        moves[mine] = np.diff(best, prepend=-profile.missed)
    return Gains(scores[rows], moves, len(wanted), -profile.missed * len(wanted))


def raw_score(series: Gains, threshold: float) -> float:
    """The raw score of a series when every row with at least ``threshold`` is a detection."""
    return series.nothing + float(series.moves[series.scores >= threshold].sum())


def best_threshold(all_series: Iterable[Gains]) -> float:
    """The threshold with the highest total; above every score if detecting nothing is best."""
    parts = list(all_series)
    scores = np.concatenate([part.scores for part in parts])
    order = np.argsort(-scores, kind="stable")
    scores, total = scores[order], np.cumsum(np.concatenate([part.moves for part in parts])[order])
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # rows with equal scores go together
    best = ends[np.argmax(total[ends])]
    return float(scores[best]) if total[best] > 0 else float(np.nextafter(scores[0], np.inf))


def normalised(raw: float, parts: Sequence[Gains], profile: Profile) -> float:
    """0 for finding nothing, 100 for each window at its first row and no false alarm."""
    nothing = sum(part.nothing for part in parts)
    perfect = profile.found * sum(part.windows for part in parts)
    return 100 * (raw - nothing) / (perfect - nothing)


def evaluate(all_series: Sequence[Series], scores: Sequence[Floats]) -> dict[str, float]:
    """Figures of each profile: with the best threshold, and leave-one-series-out under ``*_left_out``."""
    where = [places(len(series.values), series.windows) for series in all_series]
    figures = {}
    for name, profile in PROFILES.items():
        parts = [gains(score, place, profile) for score, place in zip(scores, where, strict=True)]
        threshold = best_threshold(parts)
        figures[name] = round(normalised(sum(raw_score(part, threshold) for part in parts), parts, profile), 2)
        figures[f"{name}_threshold"] = round(threshold, 4)
        if len(parts) > 1:
            raw = sum(raw_score(part, best_threshold([*parts[:i], *parts[i + 1 :]])) for i, part in enumerate(parts))
            figures[f"{name}_left_out"] = round(normalised(raw, parts, profile), 2)
    return figures


def detect(all_series: Sequence[Series]) -> list[Floats]:
    """A score for each row of each series: the surprise of the alert that is told there, else 0.

    The shop's core and life of an alert, with the budget of one false alarm in :data:`KEY_DAYS` days: an alert opens
    when the surprise of a burst reaches it, is told :data:`PENDING` panes later with the most seen by then, again when
    it has doubled since, and is over after :data:`QUIET` panes without evidence. Series know nothing of each other.
    """
    scores: dict[str, Floats] = {}
    for (pane_ms, first), group in grouped(all_series).items():
        rows = [rows_by_pane(series, pane_ms, first) for series in group]
        panes = max(map(len, rows))
        counts = [as_counts(series.values) for series in group]
        seen = np.array([np.pad(count[row], (0, panes - len(row))) for count, row in zip(counts, rows, strict=True)]).T
        panel = Panel(Settings(pane_ms=pane_ms))
        panel.place(np.full(len(group), -1), np.zeros(len(group), bool))
        surprise = np.array([panel.step(first + pane, row).surprise["burst"] for pane, row in enumerate(seen)])
        for number, (series, row) in enumerate(zip(group, rows, strict=True)):
            most = np.zeros(len(series.values))
            np.maximum.at(most, row, surprise[: len(row), number])
            scores[series.name] = told(most, threshold(pane_ms, KEY_DAYS))
    return [scores[series.name] for series in all_series]


def grouped(all_series: Sequence[Series]) -> dict[tuple[int, int], list[Series]]:
    """By pane length and first pane: these can go through one panel."""
    groups: dict[tuple[int, int], list[Series]] = {}
    for series in all_series:
        pane_ms = max(1, int(np.median(np.diff([time.timestamp() for time in series.times])) * 1000))
        groups.setdefault((pane_ms, int(series.times[0].timestamp() * 1000) // pane_ms), []).append(series)
    return groups


def rows_by_pane(series: Series, pane_ms: int, first: int) -> NDArray[np.int64]:
    """The row that a pane shows: its last one, and the one before where it has none."""
    numbers = np.array([int(time.timestamp() * 1000) // pane_ms - first for time in series.times])
    return np.searchsorted(numbers, np.arange(numbers[-1] + 1), side="right") - 1


def as_counts(values: Floats) -> Floats:
    """Whole numbers as they are; measurements in units in which they vary like counts (from their first rows)."""
    values = values - min(0.0, float(values.min()))
    start = values[: max(2, min(int(PROBATION * len(values)), int(PROBATION * LONGEST)))]
    if np.all(start == np.round(start)) and start.mean() > 0:
        return values
    unit = float(np.diff(start).var() / 2 / max(start.mean(), 1e-12))
    return values / (unit or max(float(start.mean()), 1.0))


def told(surprise: Floats, limit: float) -> Floats:
    """The life of alerts over the surprises of a series: what is told at which row."""
    scores = np.zeros(len(surprise))
    due, best, last, since, calm = -1, 0.0, 0.0, 0, QUIET
    for row, value in enumerate(surprise):
        calm = 0 if value > 0 and (value >= limit or calm < QUIET) else calm + 1
        if calm >= QUIET and due < 0:
            best = last = 0.0
            continue
        if not best:
            due = row + PENDING
        best = max(best, value)
        if row == due or (due < 0 and best >= GROWN * last and row - since >= QUIET):
            scores[row] = last = best
            due, since = -1, row
    return scores


def read(data: Path, windows: Path) -> list[Series]:
    """The labelled series of a folder, by name. Raises ValueError where file and labels do not fit."""
    series = []
    for key, labels in sorted(orjson.loads(windows.read_bytes()).items()):
        path = next((place for place in (data / key, data / Path(key).name) if place.is_file()), None)
        if path is None:
            continue
        with path.open(newline="") as lines:
            rows = list(csv.DictReader(lines))
        if not rows or not {"timestamp", "value"} <= rows[0].keys():
            raise ValueError(f"{path}: needs rows under the header timestamp,value")
        times = [moment(row["timestamp"]) for row in rows]
        values = np.array([float(row["value"]) for row in rows])
        series.append(
            Series(Path(key).name, times, values, [place_window(times, first, last, path) for first, last in labels])
        )
    if not series:
        raise ValueError(f"no file named in {windows} lies in {data}")
    return series


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def place_window(times: Sequence[datetime], first: str, last: str, path: Path) -> tuple[int, int]:
    """Rows of a labelled window."""
    inside = [row for row, time in enumerate(times) if moment(first) <= time <= moment(last)]
    if not inside:
        raise ValueError(f"{path}: no row between {first} and {last}; do the windows belong to this file?")
    return inside[0], inside[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of CSVs under the header timestamp,value")
    parser.add_argument("--windows", type=Path, required=True, help="JSON: path of a series to its labelled windows")
    options = parser.parse_args()
    all_series = read(options.data, options.windows)
    scores = detect(all_series)
    figures = evaluate(all_series, scores)
    table = Table("series", "windows", "found", "alarms outside")
    for series, score in zip(all_series, scores, strict=True):
        where = places(len(score), series.windows)
        hit = where.scored & (score >= figures["standard_threshold"])
        found = len(set(where.window[hit & (where.window >= 0)]))
        false = int((hit & (where.window < 0)).sum())
        table.add_row(series.name, str(len(series.windows)), str(found), str(false))
    Console(stderr=True).print(table)
    print(result("nab", figures, ("numpy",)))


if __name__ == "__main__":
    main()
