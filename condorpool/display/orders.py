"""What the widget's buttons do: orders from the front end, and what is said to them."""

from __future__ import annotations

import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from condorpool.display import progress
from condorpool.engine import actions
from condorpool.engine.jobs import Job
from condorpool.interface.iterators import ResultIterator
from condorpool.values.exceptions import CondorPoolError
from condorpool.values.locks import uninterrupted

if TYPE_CHECKING:
    from condorpool.display.progress import Result

logger = logging.getLogger("condorpool")

#: Rows of a page of jobs, at most.
MOST_ROWS = 100

#: Characters of a job's output, and of its events, that are shown.
TAIL = 32_768

_DONE = {"release": "released", "remove": "removed", "hold": "held"}


def perform(result: Result, order: Mapping[str, Any]) -> dict[str, Any]:
    """Do what a front end asks for, and return what to tell it."""
    act = _ACTIONS.get(str(order.get("do")))
    if act is None:
        return {"said": f"there is no action {order.get('do')!r}"}
    try:
        return act(result, order)
    except CondorPoolError as error:
        return {"said": str(error)}
    except ReferenceError:
        return {"said": "this result is gone: no variable has it any more"}
    except Exception as error:
        # Whoever clicked must hear of it, and the front end waits for an answer.
        logger.exception("condorpool could not do what was clicked")
        return {"said": f"that did not work: {error!r}"}


def _act(result: Result, order: Mapping[str, Any]) -> dict[str, Any]:
    action, past = order["do"], _DONE[order["do"]]
    if order.get("all"):
        count = getattr(result, action)()
        what = "calls taken back or jobs removed" if action == "remove" else f"jobs {past}"
        return {"said": f"{count:,} {what}"}
    chosen = _chosen(result, order)
    done = actions.act_on_jobs(result._session.state, action, chosen)  # noqa: SLF001
    return {"said": _told(past, done, _asked(order, len(chosen)))}


def _release_with_memory(result: Result, order: Mapping[str, Any]) -> dict[str, Any]:
    chosen = _chosen(result, order)
    done, memory = actions.release_with_memory(result._session.state, chosen)  # noqa: SLF001
    told = _told("released", done, _asked(order, len(chosen)))
    return {"said": f"{told}, with {memory:,} MiB each" if done else told}


def _chosen(result: Result, order: Mapping[str, Any]) -> list[Job]:
    state = "held" if order.get("held") else None
    return list(progress.jobs_in(result, state, order.get("group"), order.get("ids") or ()))


def _asked(order: Mapping[str, Any], found: int) -> int:
    """Return how many jobs the user saw, when the button was pressed."""
    return max(found, int(order.get("count") or len(order.get("ids") or ())))


def _told(past: str, done: int, asked: int) -> str:
    gone = asked - done
    if not gone:
        return f"{past} {done:,}"
    if past == "removed":
        return f"removed {done:,}, {gone:,} {'was' if gone == 1 else 'were'} already gone"
    return f"{past} {done:,}, {gone:,} could not be: gone, or {past} already"


def _rerun(result: Result, _: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(result, ResultIterator):
        return {"said": "what an iterator has given cannot be made again"}
    result.rerun_at_end()
    return {"said": "the failed calls are made again when the others have ended"}


def _page(result: Result, order: Mapping[str, Any]) -> dict[str, Any]:
    offset, count = max(0, int(order["offset"])), min(MOST_ROWS, int(order["count"]))
    total, rows = progress.page(result, order.get("state"), offset, count, time.time())
    return {"page": {"total": total, "offset": offset, "rows": [*map(dataclasses.asdict, rows)]}}


def _log(result: Result, order: Mapping[str, Any]) -> dict[str, Any]:
    job = next((job for job in progress.jobs(result, [str(order["job"])])), None)
    if job is None:
        return {"log": {"job": order["job"], "text": "The job has left the queue."}}
    parts = [("events", job.log()), ("standard error", job.stderr()), ("output", job.stdout())]
    text = "\n".join(f"== {name} ==\n{said[-TAIL:]}" for name, said in parts if said)
    return {"log": {"job": job.id, "text": text or "Nothing has been written yet."}}


_ACTIONS: dict[str, Callable[[Result, Mapping[str, Any]], dict[str, Any]]] = {
    **dict.fromkeys(_DONE, _act),
    "release_with_memory": _release_with_memory,
    "rerun": _rerun,
    "page": _page,
    "log": _log,
}


class Worker:
    """Does one thing after the other in a thread of its own.

    A click must neither wait for the access point nor for the cell that blocks.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @uninterrupted
    def do(self, job: Callable[[], object]) -> None:
        """Do something soon; one thread at a time may ask."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="condorpool-clicks", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _run(self) -> None:
        while True:
            try:
                self._jobs.get()()
            except Exception:
                logger.exception("condorpool could not answer a click")


worker = Worker()
