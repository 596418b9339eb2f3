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
from collections.abc import Coroutine
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
    from stream.sinks.base import SinkError
    from stream.stack import StackError
    from stream.supervise import ProcessFailed
    from stream.topics import TopicsError

    try:
        return asyncio.run(work)
    except (ScoringError, SinkError, StackError, ProcessFailed, TopicsError, BadEventFile) as error:
        click.echo(f"radar: {error}", err=True)
    except KafkaError as error:
        click.echo(f"radar: the broker does not answer as it should: {error!r}; RADAR_BROKER names it", err=True)
    sys.exit(BROKEN)


def output() -> Console:
    """Where results for a person go."""
    return Console(width=None if sys.stdout.isatty() else WIDE)


def show(data: Any, indent: bool = False) -> None:
    click.echo(orjson.dumps(data, option=orjson.OPT_INDENT_2 if indent else None).decode())


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
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--speed", default="max", show_default=True, help="Times real time, or max.")
@click.option("--keep-invalid", is_flag=True, help="Send lines that are no events as they are (to see dead letters).")
@json_option
def replay(files: tuple[Path, ...], speed: str, keep_invalid: bool, as_json: bool) -> None:
    """Send event FILES through the stack and tell what came out.

    Uses the stack that runs (`radar up`, or RADAR_BROKER); without one, starts an embedded stack for the replay. Event
    time is the events' own, so the outcome does not depend on the speed.
    """
    from stream.demo import run_replay

    try:
        factor = None if speed == "max" else float(speed)
        if factor is not None and factor <= 0:
            raise ValueError
    except ValueError:
        raise click.UsageError(f"--speed {speed}: a positive number or max") from None
    report = run(run_replay(Settings(), files, factor, keep_invalid, console))
    if as_json:
        show(report.to_dict(), indent=True)
    else:
        report.print(output())


@main.command()
@json_option
@click.argument("text", nargs=-1)
def score(text: tuple[str, ...], as_json: bool) -> None:
    """What the model reads in TEXT, or in each line of stdin (plain text, or JSONL with a "text" field).

    One JSON object a line: sentiment, aspects and demands with evidence spans (code points of the text as given),
    keywords, entities. Personal data is masked. Through Triton where one runs, else in this process.
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


def print_score(scored: dict[str, Any]) -> None:
    """A score for a person."""
    out = output()
    if "error" in scored:
        out.print(scored, style="red")
        return
    out.print(scored["text"], style="bold", markup=False, highlight=False)
    out.print(f"  {scored['sentiment']['label']} ({scored['sentiment']['score']:+.2f})  {scored['language']}")
    for aspect in scored["aspects"]:
        out.print(f"  {aspect['aspect']}: {aspect['sentiment']} ({aspect['prob']:.2f})", highlight=False)
    for demand in scored["demands"]:
        out.print(f"  wants {demand['demand']}: {demand['strength']:.2f} ({demand['prob']:.2f})", highlight=False)


@main.command()
@click.option("--since", help="2h, 3d, 2026-01-31T08:00 or epoch milliseconds, of event time.")
@click.option("--kind", type=click.Choice(["negative_spike", "demand_surge"]))
@click.option("--state", type=click.Choice(["open", "resolved"]))
@click.option("--follow", is_flag=True, help="Go on and print each change as it comes.")
@json_option
def alerts(since: str | None, kind: str | None, state: str | None, follow: bool, as_json: bool) -> None:
    """Alerts, newest first. Works while the stack runs and after it stopped (then from its directory)."""
    from stream import alerts as reader

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
