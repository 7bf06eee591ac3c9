# SPDX-License-Identifier: Apache-2.0
"""The sockets of `serve`: systemd's, or one of our own in the file system."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

from fusefs.cli.systemd import UNNAMED
from fusefs.errors import InvalidSpec
from fusefs.host.sockets import remove_socket, room_for
from fusefs.volume.paths import make_private_directory
from fusefs.volume_errors import AlreadyServed

BACKLOG = 128


class Listener:
    """A listening socket; ``close`` removes its file, unless it is another's by now."""

    def __init__(self, name: str, path: str, given: Mapping[str, socket.socket]) -> None:
        """Listen at ``path``, or on the socket that systemd calls ``name``; or on its only one.

        Raises:
            AlreadyServed: somebody listens there.
            InvalidSpec: the path cannot be a socket, or systemd's is none that listens.
        """
        sole = given[UNNAMED] if set(given) == {UNNAMED} else None
        inherited = given.get(name, sole)
        self._made: os.stat_result | None = None
        if inherited is not None:
            self.socket = _check(name, inherited)
            self.path = str(inherited.getsockname())
            return
        self.path = path
        self.socket = _listen(Path(path))
        self._made = Path(path).stat()

    def close(self) -> None:
        """Take no calls any more. systemd's socket goes on listening."""
        self.socket.close()
        if self._made is not None:
            remove_socket(Path(self.path), self._made)


def _check(name: str, given: socket.socket) -> socket.socket:
    listens = given.family == socket.AF_UNIX and given.type == socket.SOCK_STREAM
    if not listens or not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise InvalidSpec(
            "socket of systemd",
            name,
            "is no Unix stream socket that listens",
            remedy="write ListenStream=/PATH into its .socket unit",
        )
    return given


def _listen(path: Path) -> socket.socket:
    with room_for(path):
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen(BACKLOG)
        return listener


@contextlib.contextmanager
def sole_server(run: Path, front_door: str) -> Iterator[None]:
    """Be the only server of this kind on a run directory while the block runs.

    Raises:
        AlreadyServed: another process is.
    """
    make_private_directory(run)
    make_private_directory(run / "locks")
    path = run / "locks" / f"serve-{front_door}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise AlreadyServed(
                f"process {owner or '?'} serves {front_door} for the volumes in {run} already",
                remedy="end that one, or set PYSCSI_INIT_RUN_DIR to another directory",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)
