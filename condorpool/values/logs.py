"""The logger of condorpool; what it says can be shown (see `values.text.printable`)."""

from __future__ import annotations

import logging
import traceback

from condorpool.values.text import printable

logger = logging.getLogger("condorpool")  # noqa: TID251 - this is it


def _make_printable(record: logging.LogRecord) -> bool:
    """Replace what a terminal must not get, also in the traceback; keep the record."""
    record.msg, record.args = printable(record.getMessage()), None
    if record.exc_info and record.exc_info[0]:
        said = "".join(traceback.format_exception(*record.exc_info))
        record.exc_text = printable(said.rstrip("\n"))
    return True


logger.addFilter(_make_printable)
