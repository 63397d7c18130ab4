"""Log lines as JSON objects, one a line."""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime

from xcrossrec.progress import printable


class JsonLines(logging.Formatter):
    """Writes time, level, logger and message, and the record's facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return printable(json.dumps(line, ensure_ascii=False, default=str))


def log_as_json(level: int = logging.INFO) -> None:
    """Write to stderr as JSON: logs of the service and its HTTP server, others' warnings, and uncaught exceptions."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(handlers=[handler])  # warnings of other libraries
    threading.excepthook = lambda fault: logging.error("a thread ended by a fault", exc_info=fault.exc_value)
    sys.excepthook = lambda *fault: logging.critical("the service ended by a fault", exc_info=fault)
    for name in ("xcrossrec", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(level)
