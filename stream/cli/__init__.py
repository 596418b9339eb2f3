"""The ``radar`` command. Every command is in this folder, thin: it reads options, calls one room, prints.

Results go to stdout, everything else to stderr, so ``--json`` output can be piped. Exit codes: 0 done; 1 the answer is
no (incidents missed, a check failed, a line could not be read); 2 wrong usage; 3 something needed does not run or
broke, with a word on what to do.
"""

from __future__ import annotations

import logging
import sys

import click

from stream.cli import alerts, events, labels, replays, rules, stack, texts


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


for command in (
    alerts.alerts,
    events.import_, events.simulate,
    labels.label,
    replays.backtest, replays.replay, replays.replay_control,
    rules.route, rules.rules,
    stack.demo, stack.doctor, stack.dump, stack.schema, stack.up, stack.worker,
    texts.explain, texts.score, texts.terms,
):  # fmt: skip
    main.add_command(command)
