"""A worker's beginning and end, beside servers that are not there yet."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from stream.stack import WORKER
from stream.supervise import free_ports
from tests.servers import radar_environment, start_tansu


def until(true: Callable[[], bool], worker: subprocess.Popen[bytes], log: Path) -> None:
    patience = time.monotonic() + 60
    while not true():
        assert worker.poll() is None and time.monotonic() < patience, log.read_text()
        time.sleep(0.05)


@pytest.mark.parametrize("comes", [True, False])
def test_a_worker_waits_for_a_store_that_is_away(tmp_path: Path, comes: bool) -> None:
    (port,) = free_ports(1)
    log, ready = tmp_path / "worker.log", tmp_path / "worker-0.ready"
    store = [sys.executable, "-m", "stream.sinks.chdb", "--path", str(tmp_path / "chdb"), "--port", str(port)]
    with start_tansu(tmp_path) as broker, log.open("wb") as output:
        settings = {"broker": broker.address, "home": tmp_path, "store": f"http://127.0.0.1:{port}", "triton": ""}
        worker = subprocess.Popen(WORKER, env=radar_environment(**settings), stderr=output)
        others = []
        try:
            until(lambda: "waits for the store" in log.read_text(), worker, log)
            if comes:
                others.append(subprocess.Popen(store, stderr=subprocess.DEVNULL))
                until(ready.exists, worker, log)
        finally:
            for process in (worker, *others):
                process.terminate()
        assert worker.wait(30) == 0, log.read_text()
