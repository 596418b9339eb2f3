"""The servers and what they hold: up, demo, worker, schema, dump, doctor."""

from __future__ import annotations

import sys
from typing import Any

import click

from stream.cli.shell import NO, console, json_option, output, run, show
from stream.settings import Settings


@click.command()
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


@click.command()
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


@click.command()
def worker() -> None:
    """One worker on the servers that RADAR_BROKER, RADAR_TRITON and RADAR_SINK name."""
    from stream.worker import main as serve

    serve()


@click.command()
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


@click.command()
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


@click.command()
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
