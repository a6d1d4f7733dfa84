"""Orders from the widget's buttons, and the answers to them."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from condorpool.display.eventwords import in_words
from condorpool.display.page import jobs_in, page
from condorpool.display.printed import clean, shown
from condorpool.engine import actions
from condorpool.engine.jobs import Job
from condorpool.engine.texts import Text, end_of
from condorpool.values.exceptions import CondorPoolError
from condorpool.values.locks import uninterrupted
from condorpool.values.logs import logger
from condorpool.values.text import plural

if TYPE_CHECKING:
    from condorpool.engine.calls import Calls

#: Seconds for which an answer waits for calls that are removed to end.
CALLBACK_LAG = 1.0


#: A page of jobs has at most this many rows.
MOST_ROWS = 100

#: The last characters of a job's output, and of its events, that are shown.
TAIL = 32_768

_PAST = {"release": "released", "remove": "removed", "hold": "held"}


def perform(calls: Calls, order: Mapping[str, Any]) -> dict[str, Any]:
    """Perform an order from a front end, and return the answer."""
    perform_one = _ORDERS.get(str(order.get("do")))
    if perform_one is None:
        return {"said": f"there is no action {order.get('do')!r}"}
    try:
        return perform_one(calls, order)
    except CondorPoolError as error:
        return {"said": str(error)}
    except ReferenceError:
        return {"said": "this result no longer exists: no variable refers to it"}
    except Exception as error:
        # The user who clicked needs to know, and the front end waits for an answer.
        logger.exception("condorpool failed to perform an action of the widget")
        return {"said": f"the action failed: {error!r}"}


def _act(calls: Calls, order: Mapping[str, Any]) -> dict[str, Any]:
    """Hold, release or remove all jobs, or those that the order names."""
    action, past = order["do"], _PAST[order["do"]]
    if order.get("all"):
        if action == "remove":
            return {"said": f"{past} {plural(calls.remove(), 'call')}"}
        return {"said": f"{past} {plural(calls.act(action), 'job')}"}
    if order.get("idle"):
        return _remove_waiting(calls)
    chosen = _chosen(calls, order)
    done = actions.act_on_jobs(calls.session.state, action, chosen)
    return {"said": _answer(past, done, _asked(order, len(chosen)))}


def _remove_waiting(calls: Calls) -> dict[str, Any]:
    """Take back the calls that no job has taken, and remove the idle jobs."""
    count = calls.take_back()
    if calls.batch:
        # They have taken calls if they were evicted.
        idle = list(jobs_in(calls, "idle"))
        count += actions.remove_jobs(calls.session.state, calls.batch, idle)
    calls.session.deliveries.wait(CALLBACK_LAG)  # until calls taken back have ended
    return {"said": f"removed {plural(count, 'call')}"}


def _release_with_memory(calls: Calls, order: Mapping[str, Any]) -> dict[str, Any]:
    chosen = _chosen(calls, order)
    done, memory = actions.release_with_memory(calls.session.state, chosen)
    said = _answer("released", done, _asked(order, len(chosen)))
    return {"said": f"{said}, with {memory:,} MiB each" if done else said}


def _chosen(calls: Calls, order: Mapping[str, Any]) -> list[Job]:
    state = "held" if order.get("held") else None
    return list(jobs_in(calls, state, order.get("group"), order.get("ids") or ()))


def _asked(order: Mapping[str, Any], found: int) -> int:
    """Return how many jobs the user saw when clicking the button."""
    return max(found, int(order.get("count") or len(order.get("ids") or ())))


def _answer(past: str, done: int, asked: int) -> str:
    missed = asked - done
    answer = f"{past} {plural(done, 'job')}"
    if not missed:
        return answer
    why = "ended" if past == "removed" else f"ended or been {past}"
    return f"{answer}; {missed:,} had already {why}"


def _rerun(calls: Calls, _: Mapping[str, Any]) -> dict[str, Any]:
    if not calls.can_rerun:
        return {"said": "calls of an iterator cannot be rerun"}
    calls.rerun_at_end()
    return {"said": "the failed calls will be rerun when the others have ended"}


def _page(calls: Calls, order: Mapping[str, Any]) -> dict[str, Any]:
    offset, count = max(0, int(order["offset"])), min(MOST_ROWS, int(order["count"]))
    total, rows = page(calls, order.get("state"), offset, count, time.time())
    return {"page": {"total": total, "offset": offset, "rows": [*map(dataclasses.asdict, rows)]}}


def _printed(calls: Calls, _: Mapping[str, Any]) -> dict[str, Any]:
    printed = shown(calls)
    return {"printed": printed.text if printed else ""}


def _log(calls: Calls, order: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a job, or of the job that made a call."""
    job, title = str(order.get("job") or ""), "Job {}"
    if (call := order.get("call")) is not None:
        job, title = _job_of(calls, int(call)), f"Job {{}}, which made call {int(call):,}"
        if not job:
            return {"said": f"no job made call {int(call):,}"}
    elif not any(jobs_in(calls, ids=[job])) and all(job != c.job for c in calls.chunks()):
        return {"said": f"job {job} is no longer in the queue, and made none of these calls"}
    session = calls.session
    found = {
        "events": "\n".join(in_words(end_of(session.directory.events([job]) or "", TAIL))),
        "standard error": _end(session.text(job, 1)),
        "output": _end(session.text(job, 0)),
    }
    texts = [f"== {name} ==\n{clean(said)}" for name, said in found.items() if said]
    text = "\n".join(texts) or "The job has written nothing yet."
    return {"log": {"title": title.format(job), "text": text}}


def _end(text: Text | None) -> str:
    return text.shown(TAIL) if text else ""


def _job_of(calls: Calls, number: int) -> str:
    """Return the job that last made this call, or had it when it failed; empty if none did."""
    made = (c.job for c in reversed(calls.chunks()) if c.first <= number < c.first + c.calls)
    return next(made, "")


_ORDERS: dict[str, Callable[[Calls, Mapping[str, Any]], dict[str, Any]]] = {
    **dict.fromkeys(_PAST, _act),
    "release_with_memory": _release_with_memory,
    "rerun": _rerun,
    "page": _page,
    "log": _log,
    "printed": _printed,
}


class Worker:
    """Performs orders one at a time in a thread of its own.

    The thread that reads clicks must not wait for the access point, and a click must not
    wait for a cell that blocks.
    """

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @uninterrupted
    def do(self, task: Callable[[], object]) -> None:
        """Run a task soon; only one thread at a time may call this."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name="condorpool-clicks", daemon=True)
            self._thread.start()
        self._tasks.put(task)

    def _run(self) -> None:
        while True:
            try:
                self._tasks.get()()
            except Exception:
                logger.exception("condorpool failed to answer a click in the widget")


worker = Worker()
