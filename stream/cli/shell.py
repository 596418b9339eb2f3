"""What every command needs: results to stdout, the rest to stderr, an expected failure as one line and an exit code."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import click
import orjson
from rich.console import Console

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


def time_of(text: str | None) -> int | None:
    """Epoch ms of what ``--from`` and its kind take, None for None; wrong usage if it is no time."""
    from stream.alerts import since_ms

    try:
        return since_ms(text, int(time.time() * 1000)) if text else None
    except ValueError as error:
        raise click.UsageError(str(error)) from error
