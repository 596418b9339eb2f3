"""Sends recorded, imported or simulated events to the Kafka topics again, at any speed.

What the worker may rely on (:mod:`stream.replay.send` keeps it):

* One producer, at most one request under way per partition: the order in each partition is the order of sending.
* ``{"heartbeat": ts, "replay": true}`` goes to every partition of reviews, chats and clicks at the start and whenever
  event time enters a new pane. It never claims more than the worker's watermark would; events older than a heartbeat
  before them count as ``late``.
* Before each event lie the same promises at any speed, so what is late does not depend on it either.
* Before the first event, :class:`Handshake` waits until the report of every source lane lies in every partition of
  ``signals``: from then on no fusion lane can close a pane before it has all of it.
* A replay that reaches its end, or is told to stop, sends one heartbeat far enough ahead to close every window and
  session. However it ends, ``"replay": false`` hands the idle-partition clock back.

| file | |
|---|---|
| ``events.py`` | what an event is; event files |
| ``recorded.py`` | from topics to event files |
| ``tape.py`` | which events of a source are played, in which order, at which time; pure |
| ``control.py`` | pause, step, seek while it runs, from the keyboard and from programs |
| ``metronome.py`` | when a heartbeat is due and what it promises; pure |
| ``send.py`` | pace, heartbeats, batches |
| ``namespace.py`` | topics, tables and workers that belong to one replay |
| ``plan.py`` | what would be sent |
| ``progress.py`` | how far it is, for whoever watches |
| ``run.py`` | ``radar replay``: all of it together, and an account of what came out |
"""

from __future__ import annotations

from stream.replay.events import TOPICS, BadEventFile, Event, EventFiles, read_events, write_events
from stream.replay.send import Handshake, Progress, ReplaySummary, replay, replay_events

__all__ = [
    "TOPICS",
    "BadEventFile",
    "Event",
    "EventFiles",
    "Handshake",
    "Progress",
    "ReplaySummary",
    "read_events",
    "replay",
    "replay_events",
    "write_events",
]
