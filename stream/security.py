"""How every Kafka client of the radar proves who it is and whom it trusts: the one room for TLS and SASL.

``RADAR_SECURITY`` names the protocol, as Kafka's own ``security.protocol`` does; the other settings fill it in. A
configuration with a part missing, or with a part that the protocol would leave unused (a password that is never asked
for, a certificate authority on an open connection), is refused with the name of the variable. Passwords are in no
message. Certificates are checked, host names included; there is no setting that turns this off.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Mapping
from typing import Any

import faust
from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import KafkaError, SaslAuthenticationFailed, UnsupportedSaslMechanismError

from stream.settings import Settings

ASK_SECONDS = 5.0
TLS, SASL = ("SSL", "SASL_SSL"), ("SASL_PLAINTEXT", "SASL_SSL")


class SecurityError(RuntimeError):
    """The settings do not make a connection; the message names the variable."""


def client_security(settings: Settings) -> dict[str, Any]:
    """The keyword arguments that log an aiokafka consumer, producer or admin client in. Raises SecurityError."""
    _check(settings)
    arguments: dict[str, Any] = {"security_protocol": settings.security}
    if settings.security in TLS:
        arguments["ssl_context"] = _context(settings)
    if settings.security in SASL:
        arguments |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_user,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    return arguments


def faust_credentials(settings: Settings) -> faust.auth.Credentials | None:
    """The same for ``faust.App(broker_credentials=...)``; None for plaintext. Raises SecurityError."""
    _check(settings)
    context = _context(settings) if settings.security in TLS else None
    if settings.security in SASL:
        return faust.SASLCredentials(
            username=settings.sasl_user,
            password=settings.sasl_password.get_secret_value(),
            mechanism=settings.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context else None


def _check(settings: Settings) -> None:
    has_password = bool(settings.sasl_password.get_secret_value())
    required = {"RADAR_SASL_USER": bool(settings.sasl_user), "RADAR_SASL_PASSWORD": has_password}
    optional = {
        "RADAR_CA_FILE": bool(settings.ca_file),
        "RADAR_CERT_FILE": bool(settings.cert_file),
        "RADAR_KEY_FILE": bool(settings.key_file),
    }
    for name, given in required.items():
        if settings.security in SASL and not given:
            raise SecurityError(f"RADAR_SECURITY={settings.security} logs in: set {name} too.")
    unused = [name for name, given in required.items() if given and settings.security not in SASL]
    unused += [name for name, given in optional.items() if given and settings.security not in TLS]
    if unused:
        raise SecurityError(
            f"RADAR_SECURITY={settings.security} makes no use of {unused[0]}: set RADAR_SECURITY to a protocol that "
            f"does ({' or '.join(SASL if unused[0] in required else TLS)}), or leave {unused[0]} out."
        )
    if bool(settings.cert_file) != bool(settings.key_file):
        alone, missing = ("CERT", "KEY") if settings.cert_file else ("KEY", "CERT")
        raise SecurityError(f"RADAR_{alone}_FILE is of no use alone: set RADAR_{missing}_FILE too.")


def _context(settings: Settings) -> ssl.SSLContext:
    """TLS with the given certificate authority, or without one those of this machine."""
    names = f"RADAR_CA_FILE={settings.ca_file}"
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        if settings.cert_file:
            names = f"RADAR_CERT_FILE={settings.cert_file} and RADAR_KEY_FILE={settings.key_file}"
            context.load_cert_chain(settings.cert_file, settings.key_file, password="")
    except (OSError, ValueError) as error:
        raise SecurityError(f"Cannot use {names} ({error}): they have to be readable PEM files.") from error
    return context


async def why_refused(brokers: list[str], security: Mapping[str, Any]) -> str:
    """Why no broker lets us in and what to check; empty when that has nothing to do with security.

    Asked anew, because aiokafka writes the reason to its log and raises no more than that there is no connection.
    """
    noisy = logging.getLogger("aiokafka")
    level, noisy.level = noisy.level, logging.CRITICAL
    try:
        for host, port, _ in collect_hosts(brokers):
            if reason := await _ask(host, port, security):
                return reason
        return ""
    finally:
        noisy.level = level


async def _ask(host: str, port: int, security: Mapping[str, Any]) -> str:
    try:
        async with asyncio.timeout(ASK_SECONDS):
            connection = await create_conn(host, port, **security)
        connection.close()
    except SaslAuthenticationFailed:
        return (
            f"it does not let user '{security['sasl_plain_username']}' in. Check RADAR_SASL_USER and "
            f"RADAR_SASL_PASSWORD, and that it knows this user for RADAR_SASL_MECHANISM={security['sasl_mechanism']}."
        )
    except UnsupportedSaslMechanismError:
        return f"it does not offer {security['sasl_mechanism']}. Set RADAR_SASL_MECHANISM to one that it offers."
    except ssl.SSLCertVerificationError as error:
        return (
            f"its certificate is not trusted: {error.verify_message}. Set RADAR_CA_FILE to the PEM file of the "
            "authority that signed it, and RADAR_BROKER to a name that stands in it."
        )
    except (KafkaError, ssl.SSLError, ConnectionResetError) as error:
        card = ", and does it ask for a certificate (RADAR_CERT_FILE)" if "ssl_context" in security else ""
        return f"{error}. Does it speak {security['security_protocol']} (RADAR_SECURITY) on this port{card}?"
    except (OSError, TimeoutError):
        pass
    return ""
