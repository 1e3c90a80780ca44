"""`semid serve` with an engine that loads nothing: python serve_fake.py FOLDER DRAIN [SECONDS OF A BATCH]. Run by test_server.py."""

from __future__ import annotations

import sys
from pathlib import Path

from semid.serving.limits import Limits
from semid.serving.server import serve
from tests.serving.http.fake_engine import FakeEngine


def main(folder: str, drain: str, seconds: str = "0") -> None:
    engine = FakeEngine(seconds=float(seconds))
    engine.gate.set()
    serve(engine, Path(folder), host="127.0.0.1", port=0, key=None, store=f"{folder}/h.sqlite", drain=float(drain),
          limits=Limits(max_read_seconds=0.5, max_body=100_000, max_rate=0), started=lambda address: print(address, flush=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
