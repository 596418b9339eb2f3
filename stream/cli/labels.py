"""New labels from a few examples: what one would find, and what is worth a label."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from stream.cli.shell import BROKEN, json_option, show
from stream.settings import Settings


@click.group()
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
