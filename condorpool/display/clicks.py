"""Clicks that arrive while a cell blocks.

A front end's message to a widget waits in the kernel's shell channel until the
cell has ended.  How ours get through depends on the kernel:

- ipykernel 7 reads the channel in a thread of its own: ours are taken out there
  (`Kernel.shell_channel_thread_main`, in 7.0 to 7.4).
- Where a later version has no such hook, it may still let a comm choose the subshell that
  its messages go to, as 7.4 does: ours go to one that we have made.
- ipykernel 6 reads it in the main thread: while that waits for results, it
  reads the channel itself.
- Elsewhere clicks are processed when the cell has ended; the widget says so.

These are internals of ipykernel, so each step checks first that what it needs
exists, and passes on every message that is not for us unchanged.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
from typing import Any

logger = logging.getLogger("condorpool")

#: Seconds between two reads of the channel, where the main thread reads it.
POLL_INTERVAL = 0.05

#: Seconds within which a kernel makes a subshell, if it makes any.
SUBSHELL_TIMEOUT = 5.0


class Clicks:
    """Delivers messages for our comms at once, in one kernel."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._comms: dict[str, tuple[Any, contextvars.Context]] = {}
        self._original: Any = None
        self._subshell = ""
        self._polls = False
        self._is_busy = True  # this is made in a cell
        kernel.shell.events.register("pre_run_cell", self._note_begin)
        kernel.shell.events.register("post_run_cell", self._note_end)
        if getattr(kernel, "shell_channel_thread", None) is None:
            self._polls = hasattr(kernel, "schedule_dispatch")
        elif hasattr(kernel, "shell_channel_thread_main") and hasattr(kernel, "shell_stream"):
            self._intercept()
        else:
            self._subshell = _make_subshell()

    @property
    def poll_interval(self) -> float:
        """Seconds after which a wait in the main thread calls `poll` at the latest."""
        return POLL_INTERVAL if self._polls else 1.0

    def take(self, comm: Any) -> None:
        """Deliver messages for a comm from now on, in this context."""
        # Kernels find there to which cell an answer belongs.
        self._comms[comm.comm_id] = comm, contextvars.copy_context()
        if self._subshell and hasattr(comm, "_reply_subshell_for"):
            comm._reply_subshell_for = lambda *_: self._subshell  # noqa: SLF001

    def drop(self, comm: Any) -> None:
        """Leave a comm's messages to the kernel."""
        self._comms.pop(comm.comm_id, None)

    def _intercept(self) -> None:
        kernel = self._kernel
        self._original = original = kernel.shell_channel_thread_main

        async def hook(frames: Any) -> None:
            if not self._handle(frames):
                await original(frames)

        # A hook that is installed after ours passes messages on to ours.
        kernel.shell_channel_thread_main = self._hook = hook
        self._listen(hook)

    def _note_begin(self, _: object) -> None:
        self._is_busy = True

    def _note_end(self, _: object) -> None:
        self._is_busy = False

    def _listen(self, hook: Any) -> None:
        stream = self._kernel.shell_stream
        loop = self._kernel.shell_channel_thread.io_loop
        loop.add_callback(lambda: stream.on_recv(hook, copy=False))

    def uninstall(self) -> None:
        """Restore the channel, unless another hook was installed over ours."""
        self._comms.clear()
        self._polls = False
        self._kernel.shell.events.unregister("pre_run_cell", self._note_begin)
        self._kernel.shell.events.unregister("post_run_cell", self._note_end)
        if self._original and self._kernel.shell_channel_thread_main is self._hook:
            self._kernel.shell_channel_thread_main = self._original
            self._listen(self._original)
        if _of.get(self._kernel) is self:
            del _of[self._kernel]

    def poll(self) -> None:
        """Process what has arrived, where only the main thread can read it."""
        if not self._polls or threading.current_thread() is not threading.main_thread():
            return
        import zmq  # noqa: PLC0415 - the kernel has it

        kernel = self._kernel
        while True:
            try:
                frames = kernel.shell_stream.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if not self._handle(frames):
                # Exactly what the kernel does with a message that it reads itself.
                kernel.schedule_dispatch(kernel.dispatch_shell, frames)

    def _handle(self, frames: Any) -> bool:
        """Handle a message if it is for one of our comms; return whether it was."""
        session = self._kernel.session
        try:
            _, body = session.feed_identities(frames, copy=False)
            # The content stays packed: the kernel must be able to read the message again.
            head = session.deserialize(body, content=False, copy=False)
            if head["header"]["msg_type"] != "comm_msg":
                return False
            found = self._comms.get(session.unpack(head["content"])["comm_id"])
        except Exception:  # noqa: BLE001 - the kernel reports what is wrong with it
            return False
        if found is None:
            return False
        comm, context = found
        try:
            self._say("busy", head)
            context.copy().run(comm.handle_msg, session.deserialize(body, copy=False))
        except Exception:
            logger.exception("condorpool cannot handle a click")
        finally:
            # A front end waits for "idle" to forget the message, and takes it for the
            # state of the kernel, which still runs a cell.
            self._say("idle", head)
            if self._is_busy:
                self._say("busy", head)
        return True

    def _say(self, state: str, parent: Any) -> None:
        kernel = self._kernel
        kernel.session.send(
            kernel.iopub_socket,
            "status",
            {"execution_state": state},
            parent=parent,
            ident=kernel._topic("status"),  # noqa: SLF001
        )


def _make_subshell() -> str:
    """Ask the kernel, as any client may, for a subshell; return its id, or ""."""
    from ipykernel.connect import get_connection_file  # noqa: PLC0415 - the kernel has both
    from jupyter_client.blocking.client import BlockingKernelClient  # noqa: PLC0415

    client = BlockingKernelClient(connection_file=get_connection_file())
    client.load_connection_file()
    channel = client.control_channel
    channel.start()
    try:
        channel.send(client.session.msg("create_subshell_request"))
        return str(channel.get_msg(timeout=SUBSHELL_TIMEOUT)["content"].get("subshell_id", ""))
    except queue.Empty:
        return ""
    finally:
        channel.stop()


_of: dict[Any, Clicks] = {}


def clicks(kernel: Any) -> Clicks:
    """Return what delivers clicks in a kernel."""
    if kernel not in _of:
        _of[kernel] = Clicks(kernel)
    return _of[kernel]
