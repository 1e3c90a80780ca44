"""Logs as one JSON object a line, for programs that collect them."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone

FIELDS = "fields"
"""Attribute of a log record that holds its values: log.info("request", extra={FIELDS: {...}})."""


class JsonLines(logging.Formatter):
    """{"time", "level", "logger", "event", ...fields, "exception"}."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": time, "level": record.levelname.lower(), "logger": record.name, "event": record.getMessage(),
                **record.__dict__.get(FIELDS, {})}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=True, default=str)


def settings(level: str = "INFO") -> dict:
    """What `logging.config.dictConfig` takes: semid's and uvicorn's logs as JSON lines on stderr."""
    return {"version": 1, "disable_existing_loggers": False,
            "formatters": {"json": {"()": f"{__name__}.JsonLines"}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}},
            "loggers": {name: {"handlers": ["stderr"], "level": level, "propagate": False} for name in ("semid", "uvicorn")}}
