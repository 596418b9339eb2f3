"""``radar backtest``: where the signals come from, both sides, the curve.

From event files, texts are read by the model (what it has read before is remembered under ``<home>/backtest``). From
topics, ``signals`` already holds what the model in force has read, and nothing is read again unless another model is
asked for. All of it teaches the baselines; alerts are compared in the stretch that is asked for.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import orjson
from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.backtest.curve import FACTORS, incidents_of, point, with_budget
from stream.backtest.diff import Alert, compare, newest
from stream.backtest.lab import Record, Rows, Signals, alerts_of, signals_of
from stream.backtest.report import Report, Side
from stream.backtest.scores import RememberedScorer
from stream.detect.policy import Rules
from stream.detect.rules import SHIPPED, load_rules
from stream.detect.untried import untried
from stream.replay.events import EventFiles
from stream.replay.recorded import Stretch, record
from stream.replay.tape import Selection, Tape
from stream.security import client_security
from stream.settings import Settings
from stream.simulate.incidents import Incident, load_incidents
from stream.topics import TopicsError, topic_partitions
from stream.windows.behaviour import PANE_FEATURES

POLL_MS: Final = 500
CLICKED: Final = tuple(name for name in PANE_FEATURES if name != "abandons")  # sessions end after the last click
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What ``radar backtest`` was asked for. Times are epoch ms, ``end`` exclusive."""

    files: Sequence[Path] = ()  # none: the topics of the settings
    rules: Path | None = None  # None: those of the baseline
    baseline: Path | None = None  # None: the rules in force
    model: str = ""  # "": the model in force
    begin: int | None = None
    end: int | None = None
    truth: Path | None = None
    curve: bool = True


class BadBacktest(ValueError):
    """Cannot be compared; the message says what to do."""


async def run_backtest(settings: Settings, options: Options, say: Say = lambda words: None) -> Report:
    """Both sides over the same stretch.

    Raises :class:`BadBacktest`, :class:`~stream.detect.rules.RulesError`, and what readers of files and topics raise.
    """
    begun = time.monotonic()
    in_force = Path(settings.rules) if settings.rules else SHIPPED
    before, after = options.baseline or in_force, options.rules or options.baseline or in_force
    before_rules, after_rules = load_rules(before), load_rules(after)
    signals = await _signals(settings, options, "", say)
    reread = await _signals(settings, options, options.model, say) if options.model else signals
    if not signals.last_ts:
        raise BadBacktest("there is nothing to judge in that stretch: no review, chat or click")
    begin = options.begin if options.begin is not None else signals.first_ts
    end = options.end if options.end is not None else signals.last_ts
    days = (end - begin) / 86_400_000
    incidents = _incidents(options.truth, begin, end)

    say("judging with both rules")
    last = signals.last_ts + settings.pane_ms
    old = told(await alerts_of(signals, settings, before_rules), begin, options.end, last)
    new = told(await alerts_of(reread, settings, after_rules), begin, options.end, last)
    curve = []
    for factor in FACTORS if options.curve else ():
        say(f"what if the budget were ×{factor:g}")
        found = new
        if factor != 1:
            states = await alerts_of(reread, settings, with_budget(after_rules, factor))
            found = told(states, begin, options.end, last)
        curve.append(point(factor, found, days, incidents))
    return Report(
        begin=begin,
        end=end,
        before=Side(before.name, before_rules.version, signals.model, old),
        after=Side(after.name, after_rules.version, reread.model, new),
        changes=compare(old, new, settings.window_panes * settings.pane_ms),
        points=(point(1, old, days, incidents), point(1, new, days, incidents)),
        incidents=incidents,
        curve=curve,
        notes=_notes((before_rules, signals), (after_rules, reread)),
        events=dict(signals.events),
        seconds=time.monotonic() - begun,
    )


def told(states: Rows, begin: int, end: int | None, last: int) -> list[Alert]:
    """The alerts to be compared. After ``last`` nothing is recorded, which is no silence of the shop."""
    return [
        alert for alert in newest(states, begin, end) if alert["statistic"] != "silence" or alert["opened_at"] <= last
    ]


def _notes(*sides: tuple[Rules, Signals]) -> list[str]:
    """What the recording cannot show of the rules of either side, each once."""
    notes = [untried(rules, signals.heard, signals.last_ts - signals.first_ts) for rules, signals in sides]
    return list(dict.fromkeys(chain.from_iterable(notes)))


def _incidents(truth: Path | None, begin: int, end: int) -> list[Incident] | None:
    """Those that ``radar simulate --truth`` wrote, or the useful ones of what ``radar alerts --json`` prints."""
    if truth is None:
        return None
    try:
        if truth.read_bytes().lstrip().startswith(b"["):
            known = load_incidents(truth)
        else:
            known = incidents_of(orjson.loads(line) for line in truth.read_bytes().splitlines() if line.strip())
        return [incident for incident in known if begin <= incident.start < end]
    except (ValueError, TypeError, KeyError) as error:
        raise BadBacktest(
            f"{truth} holds no incidents ({error!r}); give what radar simulate --truth writes, or what "
            "radar alerts --json prints of alerts that were called useful"
        ) from error


async def _signals(settings: Settings, options: Options, model: str, say: Say) -> Signals:
    with ExitStack() as stack:
        settings = settings if not model else _with_model(settings, model, stack)
        files = options.files
        if not files and not model:
            say("reading the topic signals")
            return await recorded_signals(settings)
        if not files:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="radar-")))
            files = (await record(settings, Stretch(end=options.end), folder)).files
        tape = Tape(EventFiles(files, keep_invalid=True), Selection(end=options.end))
        async with RememberedScorer(settings, settings.home / "backtest", local=bool(model)) as scorer:

            def progress(events: int) -> None:
                say(f"{events:,} events, {tape.done():.0%}; {scorer.read:,} texts read by {scorer.model}")

            return await signals_of(tape, settings, scorer, progress)


def _with_model(settings: Settings, model: str, stack: ExitStack) -> Settings:
    """Settings with another model: a version of the one in force, a folder of a repository, or a name in ours.

    Raises :class:`BadBacktest`.
    """
    if model.isdecimal():
        version = (settings.model_repo / settings.model / model).absolute()
        if not version.is_dir():
            raise BadBacktest(f"no version {model} of {settings.model} in {settings.model_repo}")
        repository = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="radar-")))
        (repository / settings.model).mkdir()
        (repository / settings.model / model).symlink_to(version)
        return settings.model_copy(update={"model_repo": repository})
    path = Path(model)
    if path.is_dir():
        return settings.model_copy(update={"model_repo": path.absolute().parent, "model": path.absolute().name})
    if (settings.model_repo / model).is_dir():
        return settings.model_copy(update={"model": model})
    raise BadBacktest(f"no model {model!r}: say a version number, a folder, or a name in {settings.model_repo}")


async def recorded_signals(settings: Settings) -> Signals:
    """What lies in the topic ``signals``. Raises :class:`~stream.topics.TopicsError`."""
    there = await topic_partitions(settings)
    if there.get("signals") != settings.partitions:
        raise TopicsError(
            f"No topic {settings.topic('signals')} with {settings.partitions} partitions at {settings.broker}: set "
            "RADAR_PREFIX and RADAR_PARTITIONS, or give event files with --input"
        )
    places = {TopicPartition(settings.topic("signals"), number): number for number in range(settings.partitions)}
    signals = Signals([[] for _ in places], "")
    models: Counter[str] = Counter()
    consumer = AIOKafkaConsumer(
        bootstrap_servers=settings.brokers, enable_auto_commit=False, auto_offset_reset="earliest",
        **client_security(settings),
    )  # fmt: skip
    async with consumer:
        consumer.assign(list(places))
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(list(places))
        while True:
            batches = await consumer.getmany(timeout_ms=POLL_MS)
            for tp, records in batches.items():
                for each in records:
                    signals.partitions[places[tp]].append(Record(each.offset, each.timestamp, each.key, each.value))
                    _note(orjson.loads(each.value), signals, models)
            if not batches and all([await consumer.position(tp) >= end for tp, end in ends.items()]):
                break
    signals.model = models.most_common(1)[0][0] if models else "unknown"
    return signals


def _note(message: dict[str, Any], signals: Signals, models: Counter[str]) -> None:
    """Count a message of ``signals`` and the stretch that its events lie in."""
    signals.hear(message)
    kind = message["kind"]
    ts = {"panes": message.get("pane"), "text": message.get("ts")}.get(kind)
    if ts is None or (kind == "panes" and not any(any(message["columns"][name]) for name in CLICKED)):
        return
    signals.first_ts = min(signals.first_ts or ts, ts)
    signals.last_ts = max(signals.last_ts, ts)
    signals.events[kind] += 1
    if kind == "text":
        models[message["model"]] += 1
