"""Servers that tests start on this machine."""

from __future__ import annotations

import socket
import subprocess
import time


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for(port: int, seconds: float = 60, process: subprocess.Popen | None = None) -> None:
    """Wait until something listens on the port. Fails if the process ends first."""
    end = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > end or (process is not None and process.poll() is not None):
                raise
            time.sleep(0.05)


def said(process: subprocess.Popen) -> str:
    """Return the JSON value that a server prints once it listens."""
    text = ""
    for line in process.stdout or ():
        text += line
        if line.startswith("}"):
            return text
    raise AssertionError(f"the server ended before it listened: {text}")
