"""Event files made: of a simulated shop, and of real data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from stream.cli.shell import NO, console, time_of


@click.command()
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


@click.command("import")
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

    report = importers.Report()
    if format == "reviews":
        columns = importers.Columns(
            options["text"], options["rating"], options["label"], options["product"], options["user"],
            options["time_column"],
        )  # fmt: skip
        start = time_of(options["start"]) or importers.DEFAULT_START
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
