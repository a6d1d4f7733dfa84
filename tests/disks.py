"""File systems of tests."""

from __future__ import annotations

import contextlib
import subprocess


@contextlib.contextmanager
def tmpfs(folder, size):
    """Make a folder with a file system of this size, as ``2m``; yield the folder."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
