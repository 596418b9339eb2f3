"""Single texts and their words: score, explain, terms."""

from __future__ import annotations

import sys
from typing import Any

import click

from stream.cli.shell import NO, console, json_option, output, run, show
from stream.settings import Settings


@click.command()
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


@click.command()
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


@click.command()
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
