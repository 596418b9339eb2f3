"""Other stream processors at the radar's work: sessions by shopper and counts by product on the same topic of clicks.

Each module is a program of its own, ``python -m bench.peers.NAME --broker … --topic … --events N --partitions P``. It
reads the topic from the beginning, stops after N clicks and prints one JSON line. The clock runs from the first click
taken in to the last one processed, so start-up is not counted, nor is what a peer still does to close its windows.

Every peer keeps its panes by partition and product, as the radar's click lanes do: a re-key through Kafka would cost
each of them far more. None validates, drops redelivered clicks or reads intents. All but the limit keep what they need
to recover, as often as each does by default: Faust with every change, Quix every 5 s, Bytewax every 10 s (the radar
every second).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Final

#: The defaults of stream.settings, which not every peer's environment can import.
GAP_MS: Final = 1_800_000
PANE_MS: Final = 300_000
LATENESS_MS: Final = 5_000
#: librdkafka's own defaults pause for a second whenever 100,000 records wait: half an idle reader.
FETCH: Final = {
    "queued.min.messages": "1000000",
    "queued.max.messages.kbytes": "500000",
    "fetch.queue.backoff.ms": "10",
}


@dataclass(slots=True)
class Run:
    """What a peer is asked for, what it has taken in so far, and how long that took."""

    broker: str
    topic: str
    events: int
    positions: list[int]  # clicks taken in, by partition
    left: int = field(init=False)
    begun: float = 0.0
    ended: float = 0.0
    cpu: float = 0.0
    closed: float = 0.0

    def __post_init__(self) -> None:
        self.left = self.events

    def begin(self) -> None:
        """The first clicks are here."""
        if not self.begun:
            self.begun, self.cpu = time.perf_counter(), -time.process_time()

    def took(self, partition: int, clicks: int = 1) -> bool:
        """Count clicks; True when there are enough."""
        self.positions[partition] += clicks
        self.left -= clicks
        return self.left <= 0

    def end(self) -> None:
        """The last click is processed."""
        if not self.ended:
            self.ended = time.perf_counter()
            self.cpu += time.process_time()

    def close(self) -> None:
        """Every window is closed and saved, where a peer does that at the end of its input."""
        self.closed = time.perf_counter()

    def report(self, peer: str, package: str, sessions: int | None = None, panes: int | None = None) -> None:
        """The line that the harness reads. ``sessions`` and ``panes`` were closed or are held; None: it makes none."""
        taken, seconds = sum(self.positions), self.ended - self.begun
        figures = {
            "peer": peer,
            "version": f"{package} {version(package)}",
            "events": taken,
            "seconds": round(seconds, 3),
            "events_per_s": round(taken / seconds, 1),
            "events_per_cpu_s": round(taken / self.cpu, 1),
            "sessions": sessions,
            "panes": panes,
            "positions": self.positions,
            "closed_events_per_s": round(taken / (self.closed - self.begun), 1) if self.closed else None,
        }
        print(json.dumps(figures), flush=True)


def asked() -> Run:
    """The run that the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", required=True)
    parser.add_argument("--topic", required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--partitions", type=int, required=True)
    options = parser.parse_args()
    return Run(options.broker, options.topic, options.events, [0] * options.partitions)
