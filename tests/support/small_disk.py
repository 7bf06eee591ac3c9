# SPDX-License-Identifier: Apache-2.0
"""A directory on a disk of its own that has little room, can be filled, and can be read-only."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Path]:
    """Make ``directory`` and mount a tmpfs of 1 MiB on it."""
    directory.mkdir()
    _run("mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "none", str(directory))
    try:
        yield directory
    finally:
        _run("umount", "--lazy", str(directory))


@contextlib.contextmanager
def full(directory: Path) -> Iterator[None]:
    """No byte is left inside."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    try:
        yield
    finally:
        filler.unlink()


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[None]:
    """Nothing may be written inside."""
    _run("mount", "-o", "remount,ro", str(directory))
    try:
        yield
    finally:
        _run("mount", "-o", "remount,rw", str(directory))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, timeout=30)
