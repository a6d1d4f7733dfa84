"""A kernel for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import threading

from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop


class Kernel:
    """A kernel that runs cells in a folder.

    Attributes
    ----------
    has_failed
        Whether the last cell raised.
    """

    def __init__(self, folder, environment=os.environ):
        self.manager = KernelManager()
        self.manager.start_kernel(cwd=str(folder), env=dict(environment), stderr=subprocess.DEVNULL)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)
        self.has_failed = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        ensure_event_loop().close()  # jupyter_client has made it, and never closes it
        self.client.context.destroy()

    def run(self, code, *, answer=None, interrupt=None):
        """Run a cell, answer its question, interrupt it after a while; return what it shows."""
        texts = []
        self.has_failed = False

        def show(message):
            content = message["content"]
            if message["msg_type"] == "stream":
                texts.append(content["text"])
            elif message["msg_type"] == "error":
                self.has_failed = True
                texts.append("\n".join([*content["traceback"], ""]))

        def reply(message):
            texts.append(message["content"]["prompt"])
            self.client.input(answer)

        if interrupt:
            threading.Timer(interrupt, self.interrupt).start()
        self.client.execute_interactive(
            code,
            timeout=120,
            output_hook=show,
            stdin_hook=reply,
            allow_stdin=answer is not None,
        )
        return "".join(texts)

    def interrupt(self):
        """Interrupt the kernel, from a thread of its own."""
        self.manager.interrupt_kernel()
        ensure_event_loop().close()  # that of this thread

    def restart(self):
        """Restart the kernel, as the Restart button does."""
        self.manager.restart_kernel()
        self.client.wait_for_ready(timeout=60)

    def kill(self):
        """Kill the kernel with SIGKILL."""
        os.kill(self.manager.provisioner.pid, signal.SIGKILL)
