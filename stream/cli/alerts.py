"""Alerts as a list, and what an operator says of one."""

from __future__ import annotations

import time
from typing import Any

import click

from stream.cli.shell import console, json_option, output, run, show, time_of
from stream.settings import Settings


@click.group(invoke_without_command=True)
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
    since_at = time_of(since)

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
