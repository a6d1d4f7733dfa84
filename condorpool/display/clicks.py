"""Clicks that arrive while a cell blocks.

A front end's message to a widget waits in the kernel's shell channel until the
cell is done.  What lets ours through depends on the kernel:

- ipykernel 7 reads the channel in a thread of its own: ours are taken out there.
- Where that cannot be reached, a kernel since ipykernel 7.4 still lets a comm choose the
  subshell that its messages go to: ours go to one that we have made.
- ipykernel 6 reads it in the main thread: while that waits for results, it
  looks into the channel itself.
- Elsewhere clicks are seen when the cell is done; the widget then says so.

All this is ipykernel's own business, so each step asks first whether what it
needs is there, and hands on whatever is not for us as if nothing had happened.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
from typing import Any

logger = logging.getLogger("condorpool")

#: Seconds between two looks into the channel, where the main thread looks.
LOOK_INTERVAL = 0.05

#: Seconds within which a kernel makes a subshell, if it makes any.
PATIENCE = 5.0


class Clicks:
    """Hands messages for our comms to them at once, in one kernel."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._comms: dict[str, tuple[Any, contextvars.Context]] = {}
        self._original: Any = None
        self._subshell = ""
        self._looks = False
        self._is_busy = True  # whoever makes this runs in a cell
        kernel.shell.events.register("pre_run_cell", self._note_begin)
        kernel.shell.events.register("post_run_cell", self._note_end)
        if getattr(kernel, "shell_channel_thread", None) is None:
            self._looks = hasattr(kernel, "schedule_dispatch")
        elif hasattr(kernel, "shell_channel_thread_main") and hasattr(kernel, "shell_stream"):
            self._intercept()
        else:
            self._subshell = _make_subshell()

    @property
    def patience(self) -> float:
        """Seconds after which a wait in the main thread calls `look` at the latest."""
        return LOOK_INTERVAL if self._looks else 1.0

    def take(self, comm: Any) -> None:
        """Hand messages for a comm to it from now on, in this context."""
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

        # Whoever does the same after us then hands on to us.
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
        """Give the channel back, unless somebody has put a hook over ours."""
        self._comms.clear()
        self._looks = False
        self._kernel.shell.events.unregister("pre_run_cell", self._note_begin)
        self._kernel.shell.events.unregister("post_run_cell", self._note_end)
        if self._original and self._kernel.shell_channel_thread_main is self._hook:
            self._kernel.shell_channel_thread_main = self._original
            self._listen(self._original)
        if _of.get(self._kernel) is self:
            del _of[self._kernel]

    def look(self) -> None:
        """Take in what has come, where only the main thread can."""
        if not self._looks or threading.current_thread() is not threading.main_thread():
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
        """Handle a message if it is for one of our comms; tell whether it was."""
        session = self._kernel.session
        try:
            _, body = session.feed_identities(frames, copy=False)
            # The content is left packed: a look must not count as having read it.
            head = session.deserialize(body, content=False, copy=False)
            if head["header"]["msg_type"] != "comm_msg":
                return False
            found = self._comms.get(session.unpack(head["content"])["comm_id"])
        except Exception:  # noqa: BLE001 - the kernel will say what is wrong with it
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
            self._say("idle", head)  # a front end waits for that, to forget the message
            if self._is_busy:  # and takes it for the kernel's own
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
    """Ask the kernel, as any client may, for a subshell; return its id, "" without one."""
    from ipykernel.connect import get_connection_file  # noqa: PLC0415 - the kernel has both
    from jupyter_client.blocking.client import BlockingKernelClient  # noqa: PLC0415

    client = BlockingKernelClient(connection_file=get_connection_file())
    client.load_connection_file()
    channel = client.control_channel
    channel.start()
    try:
        channel.send(client.session.msg("create_subshell_request"))
        return str(channel.get_msg(timeout=PATIENCE)["content"].get("subshell_id", ""))
    except queue.Empty:
        return ""
    finally:
        channel.stop()


_of: dict[Any, Clicks] = {}


def clicks(kernel: Any) -> Clicks:
    """Return what handles clicks in a kernel."""
    if kernel not in _of:
        _of[kernel] = Clicks(kernel)
    return _of[kernel]
