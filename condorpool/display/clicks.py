"""Clicks that arrive while a cell blocks.

A front end's message to a widget waits in the kernel's shell channel until the
cell has ended.  How messages to condorpool's widgets are read earlier depends on the kernel:

- ipykernel 7 reads the channel in a thread of its own: a hook there takes our messages out
  (`Kernel.shell_channel_thread_main`, in 7.0 to 7.4).
- A later version without this hook may still let a comm choose the subshell for its
  messages, as 7.4 does: ours choose a subshell that we create.
- ipykernel 6 reads the channel in the main thread: while that thread waits for results,
  `Clicks.poll` reads the channel.
- In other kernels clicks are processed when the cell has ended, and the widget says so.

These are internals of ipykernel, so each step first checks that the attributes it uses
exist, and passes on every other message unchanged.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from typing import Any

from condorpool.values.logs import logger

#: Seconds between two reads of the channel where the main thread reads it.
POLL_INTERVAL = 0.05

#: Seconds to wait for the kernel to create a subshell.
SUBSHELL_TIMEOUT = 5.0


class Clicks:
    """Delivers messages to our comms at once, in one kernel."""

    def __init__(self, kernel: Any) -> None:
        self._kernel = kernel
        self._comms: dict[str, tuple[Any, contextvars.Context]] = {}
        self._original: Any = None
        self._subshell = ""
        self._polls = False
        self._is_busy = True  # a cell creates this
        kernel.shell.events.register("pre_run_cell", self._note_cell_begin)
        kernel.shell.events.register("post_run_cell", self._note_cell_end)
        if getattr(kernel, "shell_channel_thread", None) is None:
            self._polls = hasattr(kernel, "schedule_dispatch")
        elif hasattr(kernel, "shell_channel_thread_main") and hasattr(kernel, "shell_stream"):
            self._intercept()
        else:
            self._subshell = _make_subshell()

    @property
    def poll_interval(self) -> float:
        """A wait in the main thread calls `poll` at least once in this many seconds."""
        return POLL_INTERVAL if self._polls else 1.0

    def take(self, comm: Any) -> None:
        """Deliver messages to a comm from now on, in the current context."""
        # Kernels keep in the context which cell an answer belongs to.
        self._comms[comm.comm_id] = comm, contextvars.copy_context()
        if self._subshell and hasattr(comm, "_reply_subshell_for"):
            comm._reply_subshell_for = lambda *_: self._subshell  # noqa: SLF001

    def drop(self, comm: Any) -> None:
        """Leave the messages of a comm to the kernel again."""
        self._comms.pop(comm.comm_id, None)

    def _intercept(self) -> None:
        kernel = self._kernel
        self._original = original = kernel.shell_channel_thread_main

        async def hook(frames: Any) -> None:
            if not self._handle(frames):
                await original(frames)

        # Set as an attribute too, so that a hook installed later can call ours.
        kernel.shell_channel_thread_main = self._hook = hook
        self._listen(hook)

    def _note_cell_begin(self, _: object) -> None:
        self._is_busy = True

    def _note_cell_end(self, _: object) -> None:
        self._is_busy = False

    def _listen(self, hook: Any) -> None:
        stream = self._kernel.shell_stream
        loop = self._kernel.shell_channel_thread.io_loop
        loop.add_callback(lambda: stream.on_recv(hook, copy=False))

    def uninstall(self) -> None:
        """Restore the channel, unless another hook was installed over ours."""
        self._comms.clear()
        self._polls = False
        self._kernel.shell.events.unregister("pre_run_cell", self._note_cell_begin)
        self._kernel.shell.events.unregister("post_run_cell", self._note_cell_end)
        if self._original and self._kernel.shell_channel_thread_main is self._hook:
            self._kernel.shell_channel_thread_main = self._original
            self._listen(self._original)
        if _clicks_of.get(self._kernel) is self:
            del _clicks_of[self._kernel]

    def poll(self) -> None:
        """Process the messages that have arrived, where only the main thread can read them."""
        if not self._polls or threading.current_thread() is not threading.main_thread():
            return
        import zmq  # noqa: PLC0415 - kernels always have it

        kernel = self._kernel
        while True:
            try:
                frames = kernel.shell_stream.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            if not self._handle(frames):
                # As the kernel does with a message that it reads itself.
                kernel.schedule_dispatch(kernel.dispatch_shell, frames)

    def _handle(self, frames: Any) -> bool:
        """Handle a message to one of our comms; return whether it was one."""
        session = self._kernel.session
        try:
            _, body = session.feed_identities(frames, copy=False)
            # The content stays packed: the kernel must be able to read the message again.
            head = session.deserialize(body, content=False, copy=False)
            if head["header"]["msg_type"] != "comm_msg":
                return False
            found = self._comms.get(session.unpack(head["content"])["comm_id"])
        except Exception:  # noqa: BLE001 - the kernel reports malformed messages
            return False
        if found is None:
            return False
        comm, context = found
        try:
            self._send_status("busy", head)
            context.copy().run(comm.handle_msg, session.deserialize(body, copy=False))
        except Exception:
            logger.exception("condorpool failed to handle a click in the widget")
        finally:
            # A front end tracks the message until "idle", but also shows that as the state
            # of the kernel, which may still be running a cell.
            self._send_status("idle", head)
            if self._is_busy:
                self._send_status("busy", head)
        return True

    def _send_status(self, state: str, parent: Any) -> None:
        kernel = self._kernel
        kernel.session.send(
            kernel.iopub_socket,
            "status",
            {"execution_state": state},
            parent=parent,
            ident=kernel._topic("status"),  # noqa: SLF001
        )


def _make_subshell() -> str:
    """Create a subshell through the control channel, as any client may; return its id or ""."""
    from ipykernel.connect import get_connection_file  # noqa: PLC0415 - kernels always have both
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


_clicks_of: dict[Any, Clicks] = {}


def clicks(kernel: Any) -> Clicks:
    """Return the `Clicks` of a kernel."""
    if kernel not in _clicks_of:
        _clicks_of[kernel] = Clicks(kernel)
    return _clicks_of[kernel]
