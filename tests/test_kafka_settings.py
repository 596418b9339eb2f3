"""What the security settings become, and which are refused. On a real broker: ``test_kafka_security.py``."""

from __future__ import annotations

import json
import ssl
from pathlib import Path
from typing import Any

import faust
import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth
from pydantic import ValidationError
from servers import certificate

from stream.security import SecurityError, client_security, faust_credentials
from stream.settings import Settings
from stream.stack import environment
from stream.topics import TopicsError, ensure_topics

PASSWORD = "open-sesame"
LOGIN = {"security": "SASL_SSL", "sasl_user": "radar", "sasl_password": PASSWORD}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"RADAR_{name.upper()}", raising=False)
    monkeypatch.setenv("RADAR_HOME", str(tmp_path))
    return tmp_path


def test_without_any_the_connection_is_plaintext() -> None:
    assert client_security(Settings()) == {"security_protocol": "PLAINTEXT"}
    assert faust_credentials(Settings()) is None


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_faust_and_aiokafka_log_in_alike(protocol: str, mechanism: str) -> None:
    settings = Settings(**{**LOGIN, "security": protocol, "sasl_mechanism": mechanism})
    own, faust_own = client_security(settings), faust_credentials(settings)
    assert isinstance(faust_own, faust.SASLCredentials)
    through_faust = dict(credentials_to_aiokafka_auth(faust_own))
    contexts = own.pop("ssl_context", None), through_faust.pop("ssl_context")
    assert own == through_faust
    assert own == {
        "security_protocol": protocol,
        "sasl_mechanism": mechanism,
        "sasl_plain_username": "radar",
        "sasl_plain_password": PASSWORD,
    }
    for context in contexts:
        if protocol == "SASL_SSL":
            assert context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname
        else:
            assert context is None


def test_a_certificate_authority_and_an_own_certificate_are_loaded(home: Path) -> None:
    authority, _ = certificate(home, "authority")
    own, key = certificate(home, "radar", "authority")
    settings = Settings(security="SSL", ca_file=str(authority), cert_file=str(own), key_file=str(key))
    context = client_security(settings)["ssl_context"]
    assert [found["subject"] for found in context.get_ca_certs()] == [((("commonName", "authority"),),)]
    through_faust = credentials_to_aiokafka_auth(faust_credentials(settings))
    assert through_faust["security_protocol"] == "SSL"
    assert through_faust["ssl_context"].get_ca_certs() == context.get_ca_certs()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"security": "SASL_SSL"}, "RADAR_SECURITY=SASL_SSL logs in: set RADAR_SASL_USER too"),
        ({"security": "SASL_PLAINTEXT", "sasl_user": "radar"}, "set RADAR_SASL_PASSWORD too"),
        ({"security": "SASL_SSL", "sasl_password": PASSWORD}, "set RADAR_SASL_USER too"),
        ({"sasl_user": "radar"}, "RADAR_SECURITY=PLAINTEXT makes no use of RADAR_SASL_USER"),
        ({"security": "SSL", "sasl_password": PASSWORD}, "RADAR_SECURITY=SSL makes no use of RADAR_SASL_PASSWORD"),
        ({"ca_file": "ca.pem"}, "makes no use of RADAR_CA_FILE: .*SSL or SASL_SSL"),
        ({**LOGIN, "security": "SASL_PLAINTEXT", "cert_file": "a"}, "makes no use of RADAR_CERT_FILE"),
        ({"security": "SSL", "cert_file": "a"}, "RADAR_CERT_FILE is of no use alone: set RADAR_KEY_FILE too"),
        ({"security": "SSL", "key_file": "a"}, "RADAR_KEY_FILE is of no use alone: set RADAR_CERT_FILE too"),
        ({**LOGIN, "ca_file": "/nowhere/ca.pem"}, "Cannot use RADAR_CA_FILE=/nowhere/ca.pem .*readable PEM"),
        ({**LOGIN, "ca_file": __file__}, "Cannot use RADAR_CA_FILE=.*readable PEM"),
        ({"security": "SSL", "cert_file": __file__, "key_file": __file__}, "Cannot use RADAR_CERT_FILE="),
    ],
)
async def test_what_does_not_go_together_is_refused_by_name(given: dict[str, Any], said: str) -> None:
    settings = Settings(**given)
    for use in (client_security, faust_credentials):
        with pytest.raises(SecurityError, match=said) as refused:
            use(settings)
        assert PASSWORD not in str(refused.value)
    with pytest.raises(TopicsError, match=said):
        await ensure_topics(settings)


def test_unknown_protocols_and_mechanisms_are_refused_by_name() -> None:
    for given in ({"security": "TLS"}, {"sasl_mechanism": "GSSAPI"}):
        with pytest.raises(ValidationError, match=f"{next(iter(given))}\n.*Input should be"):
            Settings(**given)


def test_the_password_goes_to_workers_and_nowhere_else(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RADAR_SASL_PASSWORD", PASSWORD)
    settings = Settings(security="SASL_SSL", sasl_user="radar")
    assert client_security(settings)["sasl_plain_password"] == PASSWORD
    assert environment(settings)["RADAR_SASL_PASSWORD"] == PASSWORD
    shown = f"{settings!r}{settings}{faust_credentials(settings)!r}{json.dumps(settings.model_dump(mode='json'))}"
    assert PASSWORD not in shown
