"""The rules in force: checked, shown, tried, judged; and the router that sends what they tell."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from stream.cli.shell import BROKEN, NO, console, json_option, output, run, show
from stream.settings import Settings


@click.group()
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


@click.command()
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
