"""Events once more: replay, the control of one that runs, and backtest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from stream.cli.shell import BROKEN, NO, console, json_option, output, run, show, time_of
from stream.settings import Settings


@click.command()
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
        time_of(begin), time_of(end), frozenset(products) or None, frozenset(users) or None, check_kinds(kinds)
    )
    return Options(
        selection=selection,
        offsets=read_offsets(offsets),
        speed=read_speed(speed),
        shift_to=time_of("0s" if shift_to == "now" else shift_to),
        namespace=full_name(namespace) if namespace else "",
        remap=read_remap(remap),
        **{name: value for name, value in others.items() if value is not None},
    )


@click.command("replay-control")
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


@click.command()
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
    options["begin"], options["end"] = time_of(options["begin"]), time_of(options["end"])
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
