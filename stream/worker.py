"""One worker process: settings in, running application out, orderly end on SIGTERM or Ctrl-C.

``python -m stream.worker`` (or ``radar worker``). The exit code is 0 after a signal and 1 after a crash, with the
reason in the log, so that a supervisor starts it again. While it runs it keeps ``<home>/worker-<n>.json``: what each
lane has counted; ``<home>/worker-<n>.ready`` appears once it has its partitions.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from pathlib import Path

import orjson

from stream.app import Radar, create_app
from stream.detect import evidence, forecast
from stream.preprocess import warm_up
from stream.settings import Settings
from stream.understand import open_scorer

log = logging.getLogger(__name__)

STATUS_SECONDS = 0.5
STOP_SECONDS = 15.0


async def serve(settings: Settings) -> int:
    """Run a worker until a signal (0) or a crash (1)."""
    index = os.environ.get("RADAR_WORKER_INDEX", "0")
    settings.home.mkdir(parents=True, exist_ok=True)
    ready = settings.home / f"worker-{index}.ready"
    ready.unlink(missing_ok=True)
    warming = asyncio.create_task(asyncio.to_thread(prepare, settings))  # while the group forms
    scorer = await open_scorer(settings)
    radar = create_app(settings, scorer)
    await radar.catalog.start()
    log.info("catalogue: %d products; model %s", len(radar.catalog.catalogue), scorer.model)

    gc.collect()
    gc.freeze()  # models, dictionaries and the catalogue are here to stay
    gc.set_threshold(100_000, 20, 100)  # columns make few cycles, and many objects that live for a block
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    counts = settings.home / f"worker-{index}.json"
    status = asyncio.create_task(keep_status(radar, counts, ready))
    try:
        stopped = asyncio.create_task(stop.wait())
        started = asyncio.create_task(radar.start())
        await asyncio.wait({started, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            started.cancel()
        else:
            await started
            await warming
            crash = asyncio.create_task(radar.app.wait_until_stopped())
            await asyncio.wait({crash, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        status.cancel()
        ready.unlink(missing_ok=True)
        try:
            async with asyncio.timeout(STOP_SECONDS):
                if radar.app.started:
                    await radar.app.stop()
                await radar.sink.close()
                await radar.catalog.stop()
                await radar.out.close()
                await scorer.close()
        except TimeoutError:
            log.warning("a server does not answer; what is not saved yet is read again at the next start")
            counts.unlink(missing_ok=True)
            os._exit(int(not stop.is_set()))  # Faust would wait for the broker
        counts.unlink(missing_ok=True)  # or its lanes would pass for live ones
    if radar.app.crashed and not stop.is_set():
        log.error("worker crashed: %r", radar.app.crash_reason)
        return 1
    return 0


def prepare(settings: Settings) -> None:
    """Load and compute now what would hold up the first events: the dictionary, and what chance alone gives."""
    warm_up()
    evidence.poisson(forecast.Settings(pane_ms=settings.pane_ms))


async def keep_status(radar: Radar, path: Path, ready: Path) -> None:
    """Write the counts of the lanes, twice a second, and the ready file once there are lanes."""
    await radar.ready.wait()
    ready.touch()  # noqa: ASYNC240
    while True:
        status = {lane.name: lane.status() for lane in radar.lanes.values()}
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(orjson.dumps(status))
        temporary.replace(path)
        await asyncio.sleep(STATUS_SECONDS)


def main() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    for noisy in ("faust", "mode", "aiokafka"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    sys.exit(asyncio.run(serve(Settings())))


if __name__ == "__main__":
    main()
