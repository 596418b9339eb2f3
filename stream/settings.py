"""Every setting of every process, in one place.

A setting comes from the environment variable ``RADAR_<NAME>``; without one, from the stack that runs here
(``<home>/stack.json``, written by ``radar up``); without that, from the default below. Secrets have no default and
come only from the environment.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent


def running(home: Path) -> dict[str, Any] | None:
    """What ``<home>/stack.json`` says, if the stack that wrote it lives."""
    try:
        content: dict[str, Any] = json.loads((home / "stack.json").read_text())
        os.kill(content["pid"], 0)
    except (OSError, ValueError, KeyError):
        return None
    return content


class StackFile(PydanticBaseSettingsSource):
    """Addresses of the embedded stack that runs now, as a source of settings below the environment."""

    def __call__(self) -> dict[str, Any]:
        stack = running(Path(self.current_state.get("home") or ".radar")) or {"settings": {}}
        return {name: value for name, value in stack["settings"].items() if name in self.settings_cls.model_fields}

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError("StackFile gives all its fields at once")


class Settings(BaseSettings):
    """Typed settings; ``Settings()`` reads them."""

    model_config = SettingsConfigDict(env_prefix="RADAR_", extra="ignore", frozen=False)

    # Where things live
    home: Path = Field(default=Path(".radar"), description="state of the embedded stack: logs, chDB data, stack.json")
    model_repo: Path = Field(default=ROOT / "model_repo", description="Triton model repository")
    model: str = Field(default="demand", description="name of the model in the repository")

    rules: str = Field(default="", description="the rules file; empty: the shipped rules")

    # Servers
    broker: str = Field(default="127.0.0.1:9092", description="Kafka bootstrap servers, comma separated")
    triton: str = Field(default="127.0.0.1:8001", description="Triton gRPC address; empty: score in this process")
    sink: str = Field(default="chdb", description="'chdb' (embedded store) or 'clickhouse' (native protocol)")
    store: str = Field(default="http://127.0.0.1:8123", description="address of the embedded chDB store")
    clickhouse: str = Field(default="127.0.0.1:9000", description="ClickHouse native address")
    clickhouse_user: str = "default"
    clickhouse_password: SecretStr = SecretStr("")
    database: str = Field(default="radar", description="ClickHouse database")

    # How the brokers are spoken to: stream/security.py refuses what does not go together
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_user: str = ""
    sasl_password: SecretStr = SecretStr("")
    ca_file: str = Field(
        default="", description="PEM file of who signed the brokers' certificates; empty: the system's"
    )
    cert_file: str = Field(default="", description="PEM file of our own certificate, where the brokers ask for one")
    key_file: str = Field(default="", description="PEM file of its key, without a passphrase")

    # Topics and workers
    prefix: str = Field(default="", description="put before every topic and group name, e.g. for an isolated replay")
    partitions: int = Field(default=4, ge=1, description="partitions of each topic that radar creates")
    replication: int = Field(default=1, ge=1)
    group: str = Field(default="radar", description="consumer group")
    session_seconds: float = Field(
        default=10.0, ge=2, description="a worker not heard of for this long loses its partitions to the others"
    )
    rebalance_seconds: float = Field(default=20.0, gt=0, description="how long a rebalance waits for the other workers")

    # Blocks
    block_records: int = Field(default=8_000, ge=1, description="most records in one block of clicks or signals")
    block_texts: int = Field(default=128, ge=1, description="most texts in one block of reviews or chats")
    checkpoint_seconds: float = Field(
        default=1.0, gt=0, description="longest time between two checkpoints of a partition"
    )

    # Event time (milliseconds of event time unless said)
    lateness_ms: int = Field(default=5_000, ge=0, description="how long the watermark waits for events out of order")
    ahead_ms: int = Field(default=300_000, ge=0, description="an event may be this far ahead of its Kafka timestamp")
    correct_ms: int = Field(
        default=900_000, ge=0, description="a late event still corrects a pane that ended this long ago"
    )
    pane_ms: int = Field(default=300_000, ge=1_000, description="length of one pane (tumbling bucket)")
    window_panes: int = Field(default=12, ge=1, description="panes in the sliding window the detectors look at")
    session_gap_ms: int = Field(default=1_800_000, ge=1_000, description="silence that ends a session")
    session_max_ms: int = Field(default=14_400_000, ge=1_000, description="longest session")
    idle_seconds: float = Field(
        default=10.0,
        ge=0,
        description="wall seconds after which a silent partition's clock runs on at wall speed; 0: never",
    )

    # Limits
    max_sessions: int = Field(
        default=1_000_000, ge=1, description="most open sessions of a partition; the most silent are cut"
    )
    max_keys: int = Field(
        default=200_000, ge=1, description="most products (and their labels) counted in one pane of a partition"
    )
    deadletter_ratio: float = Field(
        default=0.5, gt=0, le=1, description="stop when more than this share of recent records is bad"
    )
    deadletter_run: int = Field(default=1_000, ge=1, description="stop after this many bad records in a row")

    @property
    def brokers(self) -> list[str]:
        return [address.strip() for address in self.broker.split(",")]

    def topic(self, name: str) -> str:
        """Full name of a topic, e.g. ``reviews`` or ``replay7-reviews``."""
        return f"{self.prefix}{name}"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, StackFile(settings_cls)
