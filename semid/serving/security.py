"""Who may ask: one key, and where the server may listen.

Without a key the server listens on this machine alone, and answers only requests addressed to this machine: a web page of
somebody else, whose name was pointed here, is refused. With a key, programs send it as a bearer's; a browser asks for a name and a
password, which is the key. A browser sends what it knows with the forms of other sites too: those are refused.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path

from semid.errors import ConfigError

SHORTEST_KEY = 16
VARIABLE = "SEMID_KEY"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`; a server without a key answers to these names alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def find_key(file: Path | None, environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the key in a file, else of SEMID_KEY, else None. Never a command-line argument: those are seen by all users."""
    if file is not None:
        try:
            key = file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--key-file {file}: cannot be read: {error}") from None
        source = f"--key-file {file}"
    elif VARIABLE in environment:
        key, source = environment[VARIABLE].strip(), VARIABLE
    else:
        return None
    if len(key) < SHORTEST_KEY or not key.isascii() or any(c.isspace() for c in key):
        raise ConfigError(f"{source}: want a key of at least {SHORTEST_KEY} ASCII characters without spaces, got {len(key)}; make one: "
                          "python -c \"import secrets; print(secrets.token_urlsafe(32))\"")
    return key


def check_bind(host: str, key: str | None) -> None:
    """Raise `ConfigError` where others could reach a server that has no key."""
    if key is None and not is_loopback(host):
        raise ConfigError(f"--host {host}: others can reach this address, so the server needs a key; put one into a file and name it "
                          f"with --key-file FILE (or set {VARIABLE}), or leave --host away to serve this machine alone")


class Guard:
    """Decides whether a request may pass. key: None = this machine alone."""

    def __init__(self, key: str | None):
        self._digest = None if key is None else _digest(key.encode())

    def refuses(self, headers: Mapping[bytes, bytes]) -> tuple[int, str] | None:
        """Return a status and the reason, or None where the request may pass. headers: by lower-case name."""
        if self._digest is None:
            name = _name(headers.get(b"host", b""))
            if is_loopback(name):
                return None
            return 403, f"Host {name!r}: this server has no key, so it answers this machine alone; ask http://127.0.0.1:PORT"
        if hmac.compare_digest(_digest(_given(headers.get(b"authorization", b""))), self._digest):
            return None
        return 401, "want the server's key: send the header \"Authorization: Bearer KEY\" (a browser: any name, the key as password)"


def is_foreign(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Whether a browser says that a page of another site wants something done here. Reading is left to the browser's own rules."""
    return method not in ("GET", "HEAD", "OPTIONS") and headers.get(b"sec-fetch-site") in (b"cross-site", b"same-site")


def _given(authorization: bytes) -> bytes:
    """The key in an Authorization header: a bearer's, or the password of a browser."""
    scheme, _, given = authorization.partition(b" ")
    if scheme.lower() == b"bearer":
        return given.strip()
    if scheme.lower() == b"basic":
        try:
            return base64.b64decode(given.strip(), validate=True).partition(b":")[2]
        except binascii.Error:
            return b""
    return b""


def _digest(key: bytes) -> bytes:
    """Equal lengths, so that comparing tells nothing about the key."""
    return hashlib.sha256(key).digest()


def _name(host: bytes) -> str:
    """The name in a Host header, without its port."""
    text = host.decode("latin-1").lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
