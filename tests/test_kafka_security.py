"""A broker of Apache Kafka that asks for TLS and a login, with certificates of an authority made here.

A worker leaves there what the embedded stack leaves, and who is not let in hears what to check.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import certificate, start_kafka
from sites import Site, Tables, assert_equal, feed, workers

from stream.doctor import examine
from stream.settings import Settings
from stream.supervise import free_ports
from stream.topics import TOPICS, BrokerRefuses, ensure_topics, topic_partitions

pytestmark = [pytest.mark.stack, pytest.mark.kafka]

PASSWORD = "open-sesame"
LISTENERS = """
listeners=CONTROLLER://127.0.0.1:{{controller}},HOST://127.0.0.1:{{port}},LOGIN://127.0.0.1:{login},CARD://127.0.0.1:{card}
advertised.listeners=HOST://127.0.0.1:{{port}},LOGIN://127.0.0.1:{login},CARD://127.0.0.1:{card}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,HOST:PLAINTEXT,LOGIN:SASL_SSL,CARD:SSL
ssl.keystore.type=PEM
ssl.keystore.location={home}/keystore.pem
ssl.truststore.type=PEM
ssl.truststore.location={home}/authority.pem
listener.name.card.ssl.client.auth=required
listener.name.login.sasl.enabled.mechanisms=SCRAM-SHA-256,PLAIN
listener.name.login.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.login.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required \\
 user_radar="{password}";
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Settings for the listener that asks for a login; ``card`` is the address of the one for certificates."""
    home = tmp_path_factory.mktemp("secure")
    authority, _ = certificate(home, "authority")
    signed, key = certificate(home, "broker", "authority")
    certificate(home, "radar", "authority")
    certificate(home, "stranger")
    (home / "keystore.pem").write_text(key.read_text() + signed.read_text())
    login, card = free_ports(2)
    more = LISTENERS.format(login=login, card=card, home=home, password=PASSWORD)
    user = ["--add-scram", f"SCRAM-SHA-256=[name=radar,password={PASSWORD}]"]
    with start_kafka(home / "kafka", more=more, form=user) as kafka:
        yield {
            "broker": f"127.0.0.1:{login}",
            "card": f"127.0.0.1:{card}",
            "open": kafka.address,
            "certificates": home,
            "settings": {
                "broker": f"127.0.0.1:{login}",
                "security": "SASL_SSL",
                "sasl_mechanism": "SCRAM-SHA-256",
                "sasl_user": "radar",
                "sasl_password": PASSWORD,
                "ca_file": str(authority),
            },
        }


async def test_a_worker_that_logs_in_leaves_what_the_embedded_stack_leaves(
    stores: Site, broker: dict[str, Any], embedded: Tables, tmp_path: Path
) -> None:
    site = stores.fresh("secure", tmp_path, **broker["settings"])
    async with workers(site, 1) as running:
        await feed(site.read)
        assert_equal(await site.contents(), embedded)
        doctor = site.run("doctor")
        assert "1 in group 'secure-radar'" in doctor.stdout, doctor.stdout
        running[0].stop()
    said = (tmp_path / "worker-0.log").read_text() + doctor.stdout + doctor.stderr
    assert "secure-reviews/0" in said
    assert PASSWORD not in said


@pytest.mark.parametrize("way", ["PLAIN", "CARD"])
async def test_a_plain_password_and_a_certificate_open_too(way: str, broker: dict[str, Any], tmp_path: Path) -> None:
    home = broker["certificates"]
    given = {**broker["settings"], "prefix": f"{way}-", "home": tmp_path}
    if way == "PLAIN":
        given["sasl_mechanism"] = "PLAIN"
    else:
        given = {"broker": broker["card"], "security": "SSL", "ca_file": given["ca_file"], "prefix": "card-"}
        given |= {"cert_file": str(home / "radar.pem"), "key_file": str(home / "radar.key"), "home": tmp_path}
    settings = Settings(**given)
    await ensure_topics(settings)
    assert await topic_partitions(settings) == dict.fromkeys(TOPICS, settings.partitions)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sasl_password": "guessed"}, r"does not let user 'radar' in\. Check RADAR_SASL_USER and RADAR_SASL_PASSWORD"),
        ({"sasl_user": "nobody"}, r"does not let user 'nobody' in\. Check RADAR_SASL_USER"),
        ({"sasl_mechanism": "SCRAM-SHA-512"}, r"does not offer SCRAM-SHA-512\. Set RADAR_SASL_MECHANISM"),
        ({"ca_file": ""}, r"certificate is not trusted: .*RADAR_CA_FILE"),
        ({"ca_file": "stranger"}, r"certificate is not trusted: .*RADAR_CA_FILE"),
        ({"security": "SASL_PLAINTEXT", "ca_file": ""}, r"speak SASL_PLAINTEXT \(RADAR_SECURITY\) on this port"),
        ({"broker": "open"}, r"speak SASL_SSL \(RADAR_SECURITY\) on this port"),
        ({"broker": "card", "security": "SSL", "sasl_user": "", "sasl_password": ""}, r"RADAR_CERT_FILE"),
    ],
)
async def test_who_is_not_let_in_hears_what_to_check(
    wrong: dict[str, str], said: str, broker: dict[str, Any], tmp_path: Path
) -> None:
    given = {**broker["settings"], **wrong, "home": tmp_path}
    given["broker"] = broker.get(given["broker"], given["broker"])
    if wrong.get("ca_file") == "stranger":
        given["ca_file"] = str(broker["certificates"] / "stranger.pem")
    with pytest.raises(BrokerRefuses, match=said) as refused:
        await ensure_topics(Settings(**given))
    assert PASSWORD not in str(refused.value)
    [check] = [check for check in await examine(Settings(**given, triton="")) if check.name == "broker"]
    assert not check.ok
    assert "docs/production.md" in check.remedy


def test_commands_and_workers_end_with_the_reason(stores: Site, broker: dict[str, Any], tmp_path: Path) -> None:
    site = stores.fresh("wrong", tmp_path, **{**broker["settings"], "sasl_password": "guessed"})
    for command, code in ((("schema", "--apply"), 3), (("worker",), 1)):
        ended = site.run(*command)
        assert ended.returncode == code, ended.stderr
        assert "Check RADAR_SASL_USER and RADAR_SASL_PASSWORD" in ended.stderr
        assert "guessed" not in ended.stderr + ended.stdout
