"""The production stack keeps its promises on paper; where there is a docker client, it parses the file too."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "docker-compose.yml"
FILE: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
ONE_SHOT = {
    name
    for service in SERVICES.values()
    for name, how in service.get("depends_on", {}).items()
    if how["condition"] == "service_completed_successfully"
}
each_service = pytest.mark.parametrize("name", SERVICES)


def compose_plugin() -> bool:
    return shutil.which("docker") is not None and not subprocess.run(
        ["docker", "compose", "version"], capture_output=True
    ).returncode  # fmt: skip


@pytest.mark.skipif(not compose_plugin(), reason="no docker client with the compose plugin here")
@pytest.mark.parametrize("profiles", ["", "cpu", "gpu", "cpu,gpu"])
def test_docker_compose_accepts_the_file(profiles: str, tmp_path: Path) -> None:
    def config(**environment: str) -> subprocess.CompletedProcess[str]:
        command = ["docker", "compose", "--env-file", str(ROOT / ".env.example"), "-f", str(COMPOSE), "config", "-q"]
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("RADAR_", "COMPOSE_"))}
        return subprocess.run(command, env=clean | environment, capture_output=True, text=True, cwd=tmp_path)

    without = config(COMPOSE_PROFILES=profiles)
    assert without.returncode != 0
    assert "choose a password" in without.stderr
    assert config(COMPOSE_PROFILES=profiles, RADAR_CLICKHOUSE_PASSWORD="x").stderr == ""


@each_service
def test_a_service_is_healthy_or_done(name: str) -> None:
    service = SERVICES[name]
    assert ("healthcheck" in service) != (name in ONE_SHOT)
    assert service["restart"] == ("on-failure:3" if name in ONE_SHOT else "unless-stopped")


@each_service
def test_nobody_waits_for_less_than_health(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert how["condition"] == ("service_completed_successfully" if other in ONE_SHOT else "service_healthy")
        # A service of a profile may be switched off.
        assert how.get("required", True) != ("profiles" in SERVICES[other])


@each_service
def test_images_are_pinned(name: str) -> None:
    tag = SERVICES[name]["image"].rpartition(":")[2]
    assert re.match(r"\d+\.\d+", tag), SERVICES[name]["image"]


@each_service
def test_ports_are_on_loopback(name: str) -> None:
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in SERVICES[name].get("ports", []))


@each_service
def test_passwords_come_from_the_environment_alone(name: str) -> None:
    environment = SERVICES[name].get("environment", {})
    secrets = {key: value for key, value in environment.items() if re.search("PASSWORD|SECRET|TOKEN|KEY", key)}
    given = r"\$\{(RADAR_CLICKHOUSE_PASSWORD:\?[^}]+|RADAR_SASL_PASSWORD:-|RADAR_KEY_FILE:-)\}"
    assert all(re.fullmatch(given, value) for value in secrets.values())
    assert bool(secrets) == (name in {"clickhouse", "worker", "init", "router"})


@each_service
def test_nobody_is_root_or_can_become_root(name: str) -> None:
    service = SERVICES[name]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if "build" in service:
        assert re.search(r"^USER radar$", (ROOT / service["build"]["dockerfile"]).read_text(), re.MULTILINE)
    else:
        assert service["user"] not in {"root", "0", "0:0"}


@each_service
def test_named_volumes_are_declared_and_mounts_exist(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (ROOT / source).exists()
            assert volume.endswith(":ro")
        else:
            assert source in FILE["volumes"]


def test_triton_runs_on_a_gpu_or_on_the_cpu_under_one_name() -> None:
    gpu, cpu = SERVICES["triton-gpu"], SERVICES["triton-cpu"]
    [device] = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "deploy" not in cpu
    for service, mode in ((gpu, "gpu"), (cpu, "cpu")):
        assert service["profiles"] == [mode]
        assert service["command"][1:] == [
            "--model-repository=/models",
            "--model-control-mode=explicit",
            "--load-model=${RADAR_MODEL:-demand}",
            f"--model-config-name={mode}",
        ]
        assert service["networks"]["default"]["aliases"] == ["triton"]


def test_workers_scale_by_one_variable_and_start_after_the_schema() -> None:
    worker = SERVICES["worker"]
    assert worker["command"] == ["radar", "worker"]
    assert worker["deploy"]["replicas"] == "${RADAR_WORKERS:-2}"
    assert "init" in worker["depends_on"]
    assert SERVICES["init"]["command"] == ["radar", "schema", "--apply"]


@pytest.mark.parametrize("name", ["worker", "init"])
def test_addresses_and_settings_are_ones_that_exist(name: str) -> None:
    from stream.settings import Settings

    for key, value in SERVICES[name]["environment"].items():
        assert key.removeprefix("RADAR_").lower() in Settings.model_fields
        if host := re.fullmatch(r"([a-z]+):\d+", value):
            assert host[1] in {*SERVICES, "triton"}
    for key in re.findall(r"RADAR_[A-Z_]+", (ROOT / "docker" / "Dockerfile").read_text()):
        assert key.removeprefix("RADAR_").lower() in Settings.model_fields


def test_the_example_names_every_variable_and_no_secret() -> None:
    example = dict(
        line.split("=", 1) for line in (ROOT / ".env.example").read_text().splitlines() if re.match(r"\w", line)
    )
    used = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    assert used | {"COMPOSE_PROFILES"} == set(example)
    assert example["RADAR_CLICKHOUSE_PASSWORD"] == example["RADAR_SASL_PASSWORD"] == ""
