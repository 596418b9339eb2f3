"""A real Triton on a machine without Docker: the server inside the nvidia-pytriton wheel, on loopback, without a GPU.

The wheel carries ``tritonserver``, its python backend and one stub per Python version; Triton wants the stub of the
Python that runs model.py beside the backend. The pair is copied under ``home``, so that site-packages stays as it was
installed. The caller starts the process, watches it and ends it.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from serving.errors import ScorerUnavailable, ScoringError
from serving.scorer import Scorer

ROOT = Path(__file__).resolve().parent.parent


def triton_command(
    model_repo: Path, model: str, grpc_port: int, http_port: int, metrics_port: int, home: Path
) -> tuple[list[str], dict[str, str]]:
    """``argv`` and environment of an embedded Triton that serves ``model``; ``home`` is a folder for its backends.

    Raises :class:`ScorerUnavailable`, which says what to install, where such a Triton could not run.
    """
    if int(np.__version__.partition(".")[0]) > 1:
        raise ScorerUnavailable(
            f"Triton's python backend reads empty arrays under numpy {np.__version__}: pip install 'numpy<2'."
        )
    wheel = _wheel()
    environment = _environment(wheel.parent / "nvidia_pytriton.libs")
    backends = _prepare_backends(wheel / "tritonserver", home.resolve() / "triton-backends", environment)
    argv = [
        str(wheel / "tritonserver/bin/tritonserver"),
        f"--model-repository={model_repo.resolve()}",
        "--model-control-mode=explicit",
        f"--load-model={model}",
        f"--backend-directory={backends}",
        *(f"--{door}-address=127.0.0.1" for door in ("grpc", "http", "metrics")),
        f"--grpc-port={grpc_port}",
        f"--http-port={http_port}",
        f"--metrics-port={metrics_port}",
        "--allow-gpu-metrics=false",
        "--exit-timeout-secs=5",
        f"--backend-config=python,shm-region-prefix-name=radar-triton-{grpc_port}-",
    ]
    _sweep_shared_memory(f"radar-triton-{grpc_port}-")
    return argv, environment


async def wait_ready(scorer: Scorer, timeout: float = 60.0, alive: Callable[[], bool] = lambda: True) -> None:  # noqa: ASYNC109
    """Return once ``scorer`` answers soundly; :class:`ScorerUnavailable` if it does not in time or the server dies."""
    give_up = time.monotonic() + timeout
    while True:
        try:
            return await scorer.check(deadline=5)
        except ScoringError as error:
            if not alive():
                raise ScorerUnavailable("Triton ended while it started: its log says why.") from error
            if time.monotonic() > give_up:
                raise ScorerUnavailable(f"Triton was not ready within {timeout:.0f} s: {error}") from error
        await asyncio.sleep(0.1)


def _wheel() -> Path:
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ScorerUnavailable(
            "No embedded Triton here: pip install nvidia-pytriton, or set RADAR_TRITON to a server."
        )
    return Path(spec.origin).parent


def _environment(libraries: Path) -> dict[str, str]:
    """That of this process, plus the wheel's libraries and this Python with its packages for model.py."""
    python = [sysconfig.get_config_var("LIBDIR")] if sysconfig.get_config_var("Py_ENABLE_SHARED") else []
    inherited = os.environ.get("LD_LIBRARY_PATH")
    return {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join([*python, str(libraries), *([inherited] if inherited else [])]),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def _prepare_backends(server: Path, target: Path, environment: dict[str, str]) -> Path:
    """The backend directory: the python backend with the stub of this Python beside it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise ScorerUnavailable(f"The embedded Triton has no stub for Python {version}: use Python 3.11.")
    linked = subprocess.run(["ldd", stub], env=environment, capture_output=True, text=True, check=False).stdout
    if "not found" in linked:
        raise ScorerUnavailable(
            f"libpython{version}.so is missing: apt install libpython{version}, or your system's like."
        )
    python = target / "python"
    python.mkdir(parents=True, exist_ok=True)
    for file in [*(server / "backends/python").glob("*triton_python*"), stub]:
        copy = python / file.name
        if not copy.exists() or copy.stat().st_size != file.stat().st_size:
            copy.unlink(missing_ok=True)
            shutil.copy2(file, copy)
    return target


def _sweep_shared_memory(prefix: str) -> None:
    """Remove what a killed Triton on the same port left in /dev/shm."""
    for left in Path("/dev/shm").glob(f"{prefix}*"):
        left.unlink(missing_ok=True)
