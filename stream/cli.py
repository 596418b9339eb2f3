"""The ``radar`` command. Every command is here, thin: it reads options, calls one room, prints.

Results go to stdout, everything else to stderr, so ``--json`` output can be piped. Exit codes: 0 done; 1 the answer is
no (incidents missed, a check failed, a line could not be read); 2 wrong usage; 3 something needed does not run or
broke, with a word on what to do.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import orjson
from rich.console import Console

from stream.settings import Settings

T = TypeVar("T")
NO, BROKEN = 1, 3
WIDE = 150  # columns, where the output is not a terminal
console = Console(stderr=True, width=None if sys.stderr.isatty() else WIDE)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout instead of text.")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command; an expected failure becomes one line and exit code 3."""
    from aiokafka.errors import KafkaError

    from serving.errors import ScoringError
    from stream.replay import BadEventFile
    from stream.replay.control import NoControl
    from stream.replay.namespace import BadNamespace
    from stream.sinks.base import SinkError
    from stream.stack import StackError
    from stream.supervise import ProcessFailed
    from stream.topics import TopicsError

    expected = (ScoringError, SinkError, StackError, ProcessFailed, TopicsError, BadEventFile, BadNamespace, NoControl)
    try:
        return asyncio.run(work)
    except expected as error:
        click.echo(f"radar: {error}", err=True)
    except KafkaError as error:
        click.echo(f"radar: the broker does not answer as it should: {error!r}; RADAR_BROKER names it", err=True)
    sys.exit(BROKEN)


def output() -> Console:
    """Where results for a person go."""
    return Console(width=None if sys.stdout.isatty() else WIDE)


def show(data: Any, indent: bool = False) -> None:
    """Print ``data`` as JSON; keys that are no texts, as years, become some."""
    option = orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
    click.echo(orjson.dumps(data, option=option).decode())


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="demand-radar")
@click.option("-v", "--verbose", is_flag=True, help="More log lines on stderr.")
def main(verbose: bool) -> None:
    """Demand Radar reads reviews, chats and clicks as they happen and tells what customers need.

    \b
    Start here:
      radar demo                      a simulated shop with incidents, and what was found
      radar up                        the embedded stack, until Ctrl-C
      radar replay FILE...            your events through the stack
      radar alerts --follow           alerts as they open and close
      echo '物流太慢了' | radar score   what the model reads in a text

    Settings are RADAR_* environment variables; `radar doctor` shows what is missing.
    """
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
    for noisy in ("aiokafka", "faust", "mode"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


@main.command()
@click.option("--workers", default=1, show_default=True, help="Worker processes.")
def up(workers: int) -> None:
    """Start the embedded stack (broker, Triton, chDB, workers) and keep it up until Ctrl-C.

    Everything listens on 127.0.0.1 on free ports; <home>/stack.json tells the other commands where. Logs are in
    <home>/logs. Set RADAR_HOME to run a second stack beside the first.
    """
    from stream.stack import embedded_stack

    async def work() -> None:
        async with embedded_stack(Settings(), workers=workers, on_event=announce) as stack:
            console.print(
                f"[green]up[/]  broker {stack.settings.broker}  triton {stack.settings.triton}  "
                f"store {stack.settings.store}\nlogs in {stack.settings.home / 'logs'}; Ctrl-C stops everything"
            )
            await stack.wait()

    run(work())


def announce(name: str, state: str) -> None:
    console.print(f"  {name}: {state}", style="dim" if state != "restarted" else "yellow", highlight=False)


@main.command()
@click.option("--exit", "strict", is_flag=True, help="Exit 0 only if every incident was found.")
@click.option("--hours", default=48.0, show_default=True, help="Simulated hours.")
@click.option("--seed", default=7, show_default=True, help="Another shop, other incidents.")
@click.option("--speed", type=float, help="Times real speed.  [default: as fast as it can be read]")
@click.option("--keep", is_flag=True, help="Leave the stack up afterwards, until Ctrl-C.")
@json_option
def demo(strict: bool, hours: float, seed: int, speed: float | None, keep: bool, as_json: bool) -> None:
    """A simulated shop with injected incidents through the embedded stack, live, and what was found.

    Needs nothing but this package. Takes one to two minutes on two cores.
    """
    from stream.demo import run_demo

    report = run(run_demo(Settings(), hours, seed, speed, keep, console))
    if as_json:
        show(report.to_dict(), indent=True)
    else:
        report.print(output())
    if strict and not report.passed:
        sys.exit(NO)


@main.command()
def worker() -> None:
    """One worker on the servers that RADAR_BROKER, RADAR_TRITON and RADAR_SINK name."""
    from stream.worker import main as serve

    serve()


@main.command()
@click.argument("output", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--hours", default=48.0, show_default=True)
@click.option("--seed", default=7, show_default=True)
@click.option("--products", default=30, show_default=True)
@click.option("--texts-per-hour", default=115.0, show_default=True)
@click.option("--clicks-per-hour", default=1250.0, show_default=True)
@click.option("--dirty", default=0.0, show_default=True, help="Share of records made invalid, to see dead letters.")
@click.option("--truth", type=click.Path(dir_okay=False, path_type=Path), help="Write the injected incidents here.")
def simulate(output: Path, truth: Path | None, **options: Any) -> None:
    """Write the events of a simulated shop to OUTPUT (JSONL for `radar replay`)."""
    from stream.simulate import Shop
    from stream.simulate.incidents import save_incidents

    try:
        shop = Shop(**options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    counts = shop.write_events(output)
    if truth is not None:
        save_incidents(shop.incidents, truth)
    console.print(", ".join(f"{count:,} {topic}" for topic, count in counts.items()), "→", str(output))


@main.command("import")
@click.argument("format", type=click.Choice(["reviews", "yoochoose", "rees46", "otto"]))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--output", type=click.File("wb"), default="-", help="Event file.  [default: stdout]")
@click.option("--text", help="reviews: column of the text.  [default: found by name]")
@click.option("--rating", help="reviews: column of the rating, 1 to 5.")
@click.option("--label", help="reviews: column of a polarity label (1/0, pos/neg, …).")
@click.option("--product", help="reviews: column of the product (or category).")
@click.option("--user", help="reviews: column of the user.")
@click.option("--time", "time_column", help="reviews: column of the time.")
@click.option("--product-id", default="imported", show_default=True, help="reviews: where no column names a product.")
@click.option("--start", help="reviews without times: time of the first, e.g. 2026-01-31T08:00.")
@click.option("--per-hour", default=120.0, show_default=True, help="reviews without times: how many in an hour.")
@click.option("--split", default=1, show_default=True, help="reviews: products to make of each category.")
def import_(format: str, file: Path, output: Any, **options: Any) -> None:
    """Turn real data into events: one {"topic", "key", "value"} a line, in order of event time.

    \b
    reviews    CSV, TSV, JSON lines or a CSV inside a .zip, columns mapped by the options
    yoochoose  YooChoose clicks or buys      rees46  REES46 events      otto  OTTO sessions (JSONL)
    """
    from stream import importers
    from stream.alerts import since_ms

    report = importers.Report()
    if format == "reviews":
        columns = importers.Columns(
            options["text"], options["rating"], options["label"], options["product"], options["user"],
            options["time_column"],
        )  # fmt: skip
        start = importers.DEFAULT_START
        if options["start"]:
            try:
                start = since_ms(options["start"], int(time.time() * 1000))
            except ValueError as error:
                raise click.UsageError(str(error)) from error
        events = importers.reviews(
            file, report, columns, start, options["per_hour"], options["product_id"], options["split"]
        )
    else:
        events = {"yoochoose": importers.yoochoose, "rees46": importers.rees46, "otto": importers.otto}[format](
            file, report
        )
    try:
        for event in events:
            output.write(event.line())
    except importers.BadFile as error:
        click.echo(f"radar: {error}", err=True)
        sys.exit(NO)
    for note in report.notes:
        click.echo(f"skipped {note}", err=True)
    console.print(f"{report.events:,} events, {report.skipped:,} rows skipped")


@main.command()
@click.argument("files", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--topics", is_flag=True, help="From the topics of the settings instead of FILES.")
@click.option("--simulate", type=click.FloatRange(min=0, min_open=True), help="From a simulated shop, so many hours.")
@click.option("--seed", default=7, show_default=True, help="--simulate: another shop.")
@click.option("--from", "begin", metavar="TIME", help="Events from this time on: 2h, 3d, 2026-01-31T08:00 or epoch ms.")
@click.option("--to", "end", metavar="TIME", help="... and before this one.")
@click.option("--offsets", multiple=True, metavar="RANGE", help="--topics: only e.g. clicks/0:100-200, clicks/1:500-.")
@click.option("--recording", type=click.Path(file_okay=False, path_type=Path), help="--topics: keep event files here.")
@click.option("--product", "products", multiple=True, help="Only what is about this product; several times.")
@click.option("--user", "users", multiple=True, help="Only what this user did or said; several times.")
@click.option("--kind", "kinds", multiple=True, help="Only reviews, chats, clicks or e.g. purchase; several times.")
@click.option("--keep-invalid", is_flag=True, help="Send lines that are no events as they are (to see dead letters).")
@click.option("--speed", default="max", show_default=True, help="Times real time, or max.")
@click.option("--loop", is_flag=True, help="Again from the start, with later event times, until it is stopped.")
@click.option("--shift-to", metavar="TIME", help="Move event times so that the first is at TIME; now is one too.")
@click.option("--paused", is_flag=True, help="Begin paused.")
@click.option("--control", type=click.Path(path_type=Path), help="Unix socket to obey.  [default: <home>/replay.sock]")
@click.option("--namespace", metavar="NAME", help="Topics and tables of this replay.  [default: fresh ones]")
@click.option("--in-place", is_flag=True, help="Send to the topics of the settings: what is in production sees it.")
@click.option("--remap", multiple=True, metavar="TOPIC=OTHER", help="Only send, TOPIC to OTHER; several times.")
@click.option("--workers", default=1, show_default=True, help="Worker processes of the namespace.")
@click.option("--dry-run", is_flag=True, help="Count what would be sent, send nothing.")
@click.option("--list", "listing", is_flag=True, help="Print the namespaces that are there.")
@click.option("--clean", metavar="NAME", help="Remove topics, tables and files of a namespace.")
@json_option
def replay(listing: bool, clean: str | None, dry_run: bool, as_json: bool, **options: Any) -> None:
    """Send recorded, imported or simulated events through the radar again and tell what came out.

    The events go to topics, tables and workers of their own (a namespace), on the stack that runs (`radar up`, or
    RADAR_BROKER) or else on one started for the replay. Event time is the events' own, so the outcome does not depend
    on the speed. Keys while it runs: space pause/resume, s step, f/b seek an hour, +/- speed, q stop;
    `radar replay-control` does the same for programs.

    \b
    radar replay events.jsonl                                as fast as it can be read
    radar replay --topics --from 2h --speed 60               the last two hours, a minute a second
    radar replay events.jsonl --product p002 --dry-run       what would be sent
    """
    _keep_from_faust("--loop")
    from stream.replay import namespace
    from stream.replay import run as room

    try:
        if listing:
            for name in run(namespace.namespaces(Settings())):
                click.echo(name)
            return
        if clean:
            namespace.full_name(clean)
            show(run(namespace.clean(Settings(), clean)))
            return
        chosen = _replay_options(**options)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    report: Any = run(room.dry_run(Settings(), chosen) if dry_run else room.run_replay(Settings(), chosen, console))
    if as_json:
        show(report.to_dict(), indent=True)
    else:
        report.print(output())


def _keep_from_faust(option: str) -> None:
    """Import Faust, which takes some options of any command line for its own, without ``option`` in sight."""
    given, sys.argv = sys.argv, [argument for argument in sys.argv if argument != option]
    import faust  # noqa: F401

    sys.argv = given


def _replay_options(
    begin: str | None, end: str | None, offsets: tuple[str, ...], products: tuple[str, ...], users: tuple[str, ...],
    kinds: tuple[str, ...], speed: str, shift_to: str | None, namespace: str | None, remap: tuple[str, ...],
    **others: Any,
) -> Any:  # fmt: skip
    """The options of a replay as its room wants them. Raises ValueError where they do not go together."""
    from stream.replay.control import read_speed
    from stream.replay.namespace import full_name
    from stream.replay.recorded import read_offsets
    from stream.replay.run import Options, check_kinds, read_remap
    from stream.replay.tape import Selection

    sources = [name for name in ("files", "topics", "simulate") if others[name]]
    if len(sources) != 1:
        raise ValueError("say what to replay: event FILES, --topics or --simulate HOURS, one of them")
    if offsets and not others["topics"]:
        raise ValueError("--offsets are places in topics: it needs --topics")
    if namespace and others["in_place"]:
        raise ValueError("--in-place and --namespace exclude each other")
    selection = Selection(
        _time(begin), _time(end), frozenset(products) or None, frozenset(users) or None, check_kinds(kinds)
    )
    return Options(
        selection=selection,
        offsets=read_offsets(offsets),
        speed=read_speed(speed),
        shift_to=_time("0s" if shift_to == "now" else shift_to),
        namespace=full_name(namespace) if namespace else "",
        remap=read_remap(remap),
        **{name: value for name, value in others.items() if value is not None},
    )


def _time(text: str | None) -> int | None:
    """Epoch ms of what ``--from`` and its kind take. Raises ValueError."""
    from stream.alerts import since_ms

    return since_ms(text, int(time.time() * 1000)) if text else None


@main.command("replay-control")
@click.argument("command", nargs=-1, required=True)
@click.option("--control", type=click.Path(path_type=Path), help="Its socket.  [default: <home>/replay.sock]")
def replay_control(command: tuple[str, ...], control: Path | None) -> None:
    """Tell a replay that runs what to do, and print its state as JSON.

    \b
    status                     where it is
    pause, resume              sending and event time stand still, or go on
    step N                     send N more events, paused
    seek TIME                  go on at a recorded time: 2026-03-02T05:30, epoch ms, +10m or -2h from where it is
    speed FACTOR               times real time, or max
    stop                       end it; what was sent is counted to the end

    Give -- before a time that begins with a minus: radar replay-control seek -- -2h
    """
    from stream.replay.control import BadCommand, NoControl, send_command

    try:
        show(send_command(control or Settings().home / "replay.sock", " ".join(command)))
    except BadCommand as error:
        raise click.UsageError(str(error)) from error
    except NoControl as error:
        click.echo(f"radar: {error}", err=True)
        sys.exit(BROKEN)


@main.command()
@click.option("--rules", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The rules to try.")
@click.option(
    "--baseline", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The rules to compare with.  [default: those in force]",
)  # fmt: skip
@click.option(
    "--input", "files", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An event file; several times.  [default: the topics of the settings]",
)  # fmt: skip
@click.option("--from", "begin", metavar="TIME", help="Compare alerts from this time on; earlier events teach.")
@click.option("--to", "end", metavar="TIME", help="... and before this one.")
@click.option("--model", default="", help="Read the texts again with this model: a version, a folder or a name.")
@click.option(
    "--truth", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Known incidents: of radar simulate --truth, or the useful ones of radar alerts --json.",
)  # fmt: skip
@click.option("--curve/--no-curve", default=True, help="Also try other budgets.  [default: curve]")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page with plots here.")
@click.option("--markdown", is_flag=True, help="Print Markdown, for a pull request.")
@click.option("--fail-on", "fail_on", multiple=True, metavar="WHAT", help="Exit 1 if there is any: see above.")
@json_option
def backtest(html: Path | None, markdown: bool, fail_on: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Which alerts other rules, or another model, would have told: the radar's own code over a recorded stretch.

    \b
    radar backtest --rules new.yaml                              against the rules in force, over the topics
    radar backtest --rules new.yaml --input events.jsonl --truth truth.json --html report.html
    radar backtest --rules new.yaml --baseline old.yaml --input events.jsonl --markdown --fail-on missed

    --fail-on takes added, removed, moved, earlier, later, any (of these), missed (incidents that only the baseline
    finds) and false-alarms (more than before); it may be given several times.
    """
    from stream.backtest import run as room
    from stream.backtest.report import FAILURES
    from stream.detect.rules import RulesError

    if not (options["rules"] or options["model"]):
        raise click.UsageError("say what to try: --rules FILE, --model MODEL or both")
    if unknown := set(fail_on) - set(FAILURES):
        raise click.UsageError(f"--fail-on {', '.join(sorted(unknown))}: there are {', '.join(FAILURES)}")
    if {"missed", "false-alarms"} & set(fail_on) and not options["truth"]:
        raise click.UsageError("--fail-on missed and false-alarms need known incidents: --truth FILE")
    try:
        options["begin"], options["end"] = _time(options["begin"]), _time(options["end"])
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with console.status("starting") as status:
        try:
            report = run(room.run_backtest(Settings(), room.Options(**options), status.update))
        except (RulesError, room.BadBacktest) as error:
            click.echo(f"radar: {error}", err=True)
            sys.exit(BROKEN)
    failed = report.failed(fail_on)
    if html is not None:
        html.write_text(report.html(), encoding="utf-8")
        console.print(f"wrote {html}", highlight=False)
    if as_json:
        show(report.to_dict() | {"failed": failed}, indent=True)
    elif markdown:
        click.echo(report.markdown(failed), nl=False)
    else:
        report.print(output())
    if failed:
        console.print(f"[red]there is what --fail-on names: {', '.join(failed)}[/]")
        sys.exit(NO)


@main.command()
@json_option
@click.argument("text", nargs=-1)
def score(text: tuple[str, ...], as_json: bool) -> None:
    """What the model reads in TEXT, or in each line of stdin (plain text, or JSONL with a "text" field).

    One JSON object a line: sentiment, aspects and demands with evidence spans (code points of the text as given),
    strangeness (above 1: out of domain, do not rely on the rest), keywords, entities. Personal data is masked. Through
    Triton where one runs, else in this process.
    """
    from stream.understand import score_lines

    async def work() -> bool:
        good = True
        lines = [" ".join(text)] if text else (line.rstrip("\n") for line in sys.stdin)
        async for scored in score_lines(lines, Settings()):
            good &= "error" not in scored
            if as_json or not sys.stdout.isatty():
                show(scored)
            else:
                print_score(scored)
        return good

    if not run(work()):
        sys.exit(NO)


@main.command()
@click.argument("text", nargs=-1, required=True)
def explain(text: tuple[str, ...]) -> None:
    """Why the model says what it says of TEXT: the words of each label, and its probability without them."""
    from serving.explain import explain as reasons_for
    from stream.preprocess import prepare
    from stream.understand import open_ready_scorer

    async def work() -> None:
        clean = prepare(" ".join(text)).clean
        async with await open_ready_scorer(Settings()) as scorer:
            (score,) = await scorer.score([clean])
            if score.foreign:
                click.echo(strange(score.strangeness))
            for reason in await reasons_for(scorer, clean):
                words = " … ".join(clean[start:end] for start, end in reason.evidence)
                click.echo(
                    f"{reason.label}: {reason.says} ({reason.prob:.2f}, counts from {reason.threshold:.2f})  “{words}”"
                    f"  without it {reason.without:.2f}, without as much elsewhere {reason.control:.2f}"
                    f"{'' if reason.holds else '  — the words do not carry it'}"
                )

    run(work())


@main.command()
@click.option("--product", default="", metavar="ID", help="Only texts about this product.")
@click.option("--category", default="", metavar="NAME", help="Only texts about products of this category.")
@click.option("--since", default="24h", show_default=True, help="The period: from then to the newest text; see below.")
@click.option("--count", default=12, show_default=True, help="Terms to show.")
@json_option
def terms(product: str, category: str, since: str, count: int, as_json: bool) -> None:
    """The words that stand out in the texts of a period against the four weeks before it, with quotes.

    Of a product, a category or the whole shop. 2h and 3d count back from the newest text that is stored;
    2026-01-31T08:00 and epoch milliseconds are times of their own. A text that is sent again counts once.
    """
    from stream import alerts as reader
    from stream import keyterms as room

    if product and category:
        raise click.UsageError("--product and --category exclude each other")
    try:
        reader.since_ms(since, 0)
    except ValueError as error:
        raise click.UsageError(str(error)) from error

    async def work() -> list[dict[str, Any]]:
        async with reader.source(Settings()) as source:
            until = await room.newest(source) + 1
            begin = max(0, reader.since_ms(since, until))
            return await room.read(source, begin, until, product=product, category=category, most=count)

    found = run(work())
    if as_json:
        for term in found:
            show(term)
    elif found:
        output().print(room.as_table(found))
    else:
        console.print("no term stands out; a longer --since has more texts to compare")


@main.group()
def label() -> None:
    """New labels from a few examples, and the texts that are worth a label. Needs the training packages.

    PAST is JSONL with a "text" field, or a text a line; - is stdin:

    \b
    radar dump --canonical --table signals | radar label preview - --label gift_wrap \\
        --definition 'Asks for gift wrapping.' --examples few.txt
    """


@contextmanager
def labels_room() -> Iterator[tuple[Any, Any]]:
    """The module behind the commands and the model that it reads with; what is missing, as one line."""
    from serving.card import read_card
    from serving.errors import ModelMissing

    try:
        from training import label as room

        yield room, read_card(Settings().model_repo, Settings().model)
    except ImportError as error:
        click.echo(f"radar: {error.name} is missing: labels need pip install 'demand-radar[training]'", err=True)
        sys.exit(BROKEN)
    except (ModelMissing, SystemExit) as error:
        click.echo(f"radar: {error}", err=True)
        sys.exit(BROKEN)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@label.command()
@click.argument("past", type=click.File(encoding="utf-8"))
@click.option("--label", "name", required=True, help="What to call it.")
@click.option("--definition", required=True, help="One sentence; it is learnt from, too.")
@click.option("--examples", required=True, type=click.File(encoding="utf-8"), help="8 to 32 texts that have the label.")
@click.option("--count", default=10, show_default=True, help="Texts to show of each kind.")
@json_option
def preview(past: Any, name: str, definition: str, examples: Any, count: int, as_json: bool) -> None:
    """What a new label would have found in PAST, surest first, and the texts on its border."""
    with labels_room() as (room, card):
        few = [definition, *room.texts_of(examples)]
        seen = room.preview(room.embedding(card), name, few, room.texts_of(past), count)
    kinds = {"found": seen.found if as_json else seen.found[:count], "border": seen.border}
    if as_json:
        texts = {kind: [{"prob": prob, "text": text} for prob, text in pairs] for kind, pairs in kinds.items()}
        show({"label": name, "texts": seen.texts, **texts}, indent=True)
        return
    click.echo(f"{name}: {len(seen.found)} of {seen.texts} texts. The surest, then those on the border:")
    for pairs in kinds.values():
        click.echo("".join(f"\n  {prob:.2f}  {text}" for prob, text in pairs)[1:] + "\n")


@label.command()
@click.argument("past", type=click.File(encoding="utf-8"))
@click.option("--count", default=20, show_default=True, help="Texts to write.")
def queue(past: Any, count: int) -> None:
    """The texts of PAST that are worth a person's label, as rows to correct (JSONL on stdout).

    In turn those of which the model is least certain, and those least like what it was trained on.
    """
    with labels_room() as (room, card):
        for row in room.rows_to_fill_in(card, room.texts_of(past), count):
            show(row)


def strange(strangeness: float) -> str:
    return (
        f"out of domain: {strangeness:.2f} times as far from shop language as 98 % of shop texts; do not rely on this"
    )


def print_score(scored: dict[str, Any]) -> None:
    """A score for a person."""
    out = output()
    if "error" in scored:
        out.print(scored, style="red")
        return
    out.print(scored["text"], style="bold", markup=False, highlight=False)
    out.print(f"  {scored['sentiment']['label']} ({scored['sentiment']['score']:+.2f})  {scored['language']}")
    if scored["out_of_domain"]:
        out.print(f"  {strange(scored['strangeness'])}", style="yellow", highlight=False)
    for aspect in scored["aspects"]:
        out.print(f"  {aspect['aspect']}: {aspect['sentiment']} ({aspect['prob']:.2f})", highlight=False)
    for demand in scored["demands"]:
        out.print(f"  wants {demand['demand']}: {demand['strength']:.2f} ({demand['prob']:.2f})", highlight=False)


@main.group(invoke_without_command=True)
@click.option("--since", help="2h, 3d, 2026-01-31T08:00 or epoch milliseconds, of event time.")
@click.option(
    "--kind",
    type=click.Choice(["negative_spike", "demand_surge", "price_sensitivity", "stock_risk", "unmet_demand", "silence"]),
)
@click.option("--state", type=click.Choice(["open", "acknowledged", "silenced", "snoozed", "resolved"]))
@click.option("--follow", is_flag=True, help="Go on and print each change as it comes.")
@json_option
@click.pass_context
def alerts(
    context: click.Context, since: str | None, kind: str | None, state: str | None, follow: bool, as_json: bool
) -> None:
    """Alerts, newest first. Works while the stack runs and after it stopped (then from its directory).

    \b
    radar alerts ack 3f2a                        somebody looks after it (the first digits of its id do)
    radar alerts snooze 3f2a 2h                  quiet for two hours of event time, then told again
    radar alerts not-useful 3f2a -m "promotion"  a label: `radar rules stats` counts them
    """
    from stream import alerts as reader

    if context.invoked_subcommand:
        return
    try:
        since_at = reader.since_ms(since, int(time.time() * 1000)) if since else None
    except ValueError as error:
        raise click.UsageError(str(error)) from error

    async def work() -> None:
        async with reader.source(Settings()) as source:
            if follow:
                async for alert in reader.follow(source, since=since_at, kind=kind, state=state):
                    show(alert) if as_json else output().print(reader.as_table([alert]))
                return
            found = await reader.list_alerts(source, since=since_at, kind=kind, state=state)
            if as_json:
                for alert in found:
                    show(alert)
            elif found:
                output().print(reader.as_table(found))
            else:
                console.print("no alerts")

    run(work())


def say(verb: str, alert_id: str, by: str | None, note: str, **until: int) -> None:
    """Send an operator's action and show what it did."""
    import getpass

    from stream import alerts as reader
    from stream.detect.lifecycle import Action

    settings, by = Settings(), by or getpass.getuser()

    async def work() -> tuple[dict[str, Any], dict[str, Any] | None]:
        async with reader.source(settings) as source:
            found = await reader.find(source, alert_id)
        action = Action(found["alert_id"], verb, int(time.time() * 1000), by, note=note, **until)  # type: ignore[arg-type]
        return found, await reader.say(settings, found, action)

    try:
        before, after = run(work())
    except reader.NoAlert as error:
        raise click.UsageError(str(error)) from error
    if after is None:
        console.print("sent; no worker has taken it yet")
        return
    output().print(reader.as_table([after]))
    if after["updated_at"] == before["updated_at"]:
        console.print(f"noted; the alert stays {after['state']}")


def about_an_alert(command: Any) -> Any:
    """The arguments that all actions take."""
    for option in (
        click.argument("alert_id"),
        click.option("--by", help="Who says so.  [default: the user of this shell]"),
        click.option("-m", "--note", default="", help="Why; it is kept with the alert."),
    ):
        command = option(command)
    return command


@alerts.command()
@about_an_alert
def ack(alert_id: str, by: str | None, note: str) -> None:
    """Acknowledge: somebody looks after it. It is not told again until it ends."""
    say("ack", alert_id, by, note)


@alerts.command()
@about_an_alert
def silence(alert_id: str, by: str | None, note: str) -> None:
    """Keep an alert quiet, also when it opens again, until `unsilence`."""
    say("silence", alert_id, by, note)


@alerts.command()
@about_an_alert
def unsilence(alert_id: str, by: str | None, note: str) -> None:
    """End a silence or a snooze."""
    say("unsilence", alert_id, by, note)


@alerts.command()
@about_an_alert
@click.argument("until")
def snooze(alert_id: str, until: str, by: str | None, note: str) -> None:
    """Keep an alert quiet for a while (2h) or until a time (2026-01-31T08:00) of event time, then tell it again."""
    from stream.alerts import since_ms
    from stream.detect.rules import read_duration

    try:
        end = {"until": since_ms(until, 0)} if "-" in until or until.isdigit() else {"duration": read_duration(until)}
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    say("snooze", alert_id, by, note, **end)


@alerts.command()
@about_an_alert
def useful(alert_id: str, by: str | None, note: str) -> None:
    """Label an alert: it was worth the call."""
    say("useful", alert_id, by, note)


@alerts.command("not-useful")
@about_an_alert
def not_useful(alert_id: str, by: str | None, note: str) -> None:
    """Label an alert: it was not worth the call."""
    say("not_useful", alert_id, by, note)


@main.group()
def rules() -> None:
    """The rules in force: check a file, show it, try it, see how useful its alerts were.

    RADAR_RULES names the file; workers read it again when it changes.
    """


def rules_of(file: Path | None) -> Any:
    """The rules of a file, or those in force; what is wrong with it, and exit code 1."""
    from stream.detect.rules import RulesError, RulesFile

    try:
        return RulesFile(str(file) if file else Settings().rules).rules
    except RulesError as error:
        click.echo(str(error), err=True)
        sys.exit(NO)


@rules.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def check(file: Path) -> None:
    """Read a rules file; each mistake with line, column and remedy, and exit code 1."""
    found = rules_of(file)
    console.print(f"{file}: {len(found.rules)} rules, {len(found.routes)} routes, version {found.version}")


@rules.command("show")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@json_option
def show_rules(file: Path | None, as_json: bool) -> None:
    """The rules of FILE, or those in force, with all defaults filled in."""
    from stream.tryout import rules_table

    found = rules_of(file)
    show(found, indent=True) if as_json else output().print(rules_table(found))


@rules.command("schema")
def rules_schema() -> None:
    """Print the JSON schema of a rules file, for editors."""
    from stream.detect.rules import schema

    show(schema(), indent=True)


@rules.command("test")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--input", "source", required=True, help="Lines of a canonical dump or of signals, - for stdin, or simulated."
)
@json_option
def test_rules(file: Path, source: str, as_json: bool) -> None:
    """The alerts that FILE would have told over what was understood before, and what that cannot show; no server."""
    from stream import alerts as reader
    from stream import tryout
    from stream.detect.untried import untried

    found, settings = rules_of(file), Settings()
    try:
        if source == "simulated":
            signals = tryout.read_signals(tryout.simulated(settings.pane_ms), settings.pane_ms)
        else:
            with click.open_file(source, "rb") as lines:
                signals = tryout.read_signals(lines, settings.pane_ms)
    except OSError as error:
        raise click.UsageError(f"--input {source}: {error.strerror}; say simulated, - or a file") from error
    except tryout.BadInput as error:
        click.echo(f"radar: {error}", err=True)
        sys.exit(NO)
    states = run(tryout.try_rules(found, signals, settings))
    newest = {state["alert_id"]: state for state in states}
    if as_json:
        for state in states:
            show(state)
    elif newest:
        output().print(reader.as_table(newest.values()))
    texts, panes = signals.events["texts"], signals.events["panes"]
    console.print(f"{texts:,} texts in {panes:,} panes: {len(newest)} alerts, {len(states)} states")
    for note in untried(found, signals.heard, signals.last_ts - signals.first_ts):
        console.print(note)


@rules.command()
@click.option("--target", default=0.8, show_default=True, type=click.FloatRange(0.05, 0.99), help="Share to be useful.")
@json_option
def stats(target: float, as_json: bool) -> None:
    """Precision of each rule by week, from the labels useful and not-useful, and a budget that would suit it."""
    from dataclasses import asdict

    from stream import alerts as reader
    from stream.detect import feedback
    from stream.tryout import stats_tables

    async def work() -> list[feedback.Judged]:
        async with reader.source(Settings()) as source:
            return await reader.judged(source)

    judged, known = run(work()), {rule.name: rule for rule in rules_of(None).rules}
    weeks, total = feedback.by_week(judged), feedback.overall(judged)
    advice = [feedback.suggest(known[seen.rule], seen, target) for seen in total if seen.rule in known]
    if as_json:
        show({"weeks": list(map(asdict, weeks)), "rules": list(map(asdict, total)),
              "suggestions": [each._asdict() for each in advice]}, indent=True)  # fmt: skip
    else:
        output().print(*stats_tables(weeks, advice))


@main.command()
def route() -> None:
    """Send alerts to the routes of the rules (webhooks, topics, files) until Ctrl-C. Run one beside the workers.

    `radar up` starts one by itself where the rules name routes. docs/rules.md has the form of a webhook and how to
    check its signature.
    """
    from stream.detect.rules import RulesError
    from stream.routing import serve

    try:
        run(serve(Settings()))
    except (RulesError, ValueError) as error:
        click.echo(f"radar: {error}", err=True)
        sys.exit(BROKEN)


@main.command()
@click.option("--canonical", is_flag=True, help="Every row, one JSON object a line, in an order of its own.")
@click.option("--table", "tables", multiple=True, help="Only this table; may be given several times.  [default: all]")
@click.option("-o", "--output", "file", type=click.File("wb", lazy=True), default="-", help="[default: stdout]")
def dump(canonical: bool, tables: tuple[str, ...], file: Any) -> None:
    """Everything concluded so far: rows and SHA-256 of each table, or with --canonical all of it.

    Two runs over the same topics give the same bytes, whatever happened on the way, and so the same sums. Works while
    the stack runs and after it stopped (then from its directory).
    """
    from stream import dump as room

    if unknown := set(tables) - set(room.TABLES):
        raise click.UsageError(f"no table {', '.join(sorted(unknown))}; there are {', '.join(room.TABLES)}")

    async def work() -> None:
        wanted = tables or tuple(room.TABLES)
        if canonical:
            async for _, line in room.canonical(Settings(), wanted):
                file.write(line)
            return
        for table, rows, digest in await room.sums(Settings(), wanted):
            file.write(f"{digest}  {rows:>9}  {table}\n".encode())

    run(work())


@main.command()
@click.option("--apply", is_flag=True, help="Create what is missing: Kafka topics and ClickHouse tables.")
def schema(apply: bool) -> None:
    """Print the ClickHouse DDL; with --apply create the topics and tables on the servers of the settings."""
    from stream.sinks import open_sink
    from stream.sinks.rows import ddl
    from stream.topics import ensure_topics

    if not apply:
        click.echo(";\n\n".join(ddl()) + ";")
        return

    async def work() -> None:
        settings = Settings()
        await ensure_topics(settings)
        async with open_sink(settings):
            pass  # opening it makes the tables

    run(work())
    console.print("topics and tables are there")


@main.command()
@json_option
def doctor(as_json: bool) -> None:
    """Examine each dependency: is it there, which version, and what to do if not."""
    from stream import doctor as room

    checks = run(room.examine(Settings()))
    if as_json:
        show(room.as_json(checks), indent=True)
    else:
        output().print(room.as_table(checks))
    if not all(check.ok for check in checks):
        sys.exit(NO)


if __name__ == "__main__":
    main()
