# SPDX-License-Identifier: Apache-2.0
"""The sockets of `serve`: systemd's, or one of our own in the file system.

A socket file stays behind when its owner is killed. So one on which nobody listens is replaced; one
on which somebody does is not, and neither is a file that is no socket. Looking and replacing happen
under a lock of the directory, so that of two who start at once the second one sees the first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from fusefs.cli.exit_codes import AlreadyServed
from fusefs.cli.systemd import UNNAMED
from fusefs.errors import InvalidSpec
from fusefs.volume.paths import make_private_directory

BACKLOG = 128
LONGEST_PATH = 107
"""unix(7)"""


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
            with contextlib.suppress(OSError):
                if os.path.samestat(Path(self.path).lstat(), self._made):
                    Path(self.path).unlink()


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
    if not path.is_absolute() or len(os.fsencode(path)) > LONGEST_PATH:
        raise InvalidSpec(
            "socket",
            str(path),
            f"is not an absolute path of at most {LONGEST_PATH} bytes",
            remedy="name another one",
        )
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _locked(path.parent):
            _make_room(path)
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            mask = os.umask(0o177)  # root alone may connect, from the first moment on
            try:
                listener.bind(str(path))
            finally:
                os.umask(mask)
            listener.listen(BACKLOG)
            return listener
    except OSError as error:
        raise InvalidSpec(
            "socket", str(path), f"cannot be made ({error.strerror})", remedy="name another one"
        ) from error


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_room(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise InvalidSpec(
            "socket",
            str(path),
            "is there already and is no socket",
            remedy="remove it, or name another one",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass  # its queue is full, or it is none of ours: somebody has it
    raise AlreadyServed(
        f"somebody serves on {path} already",
        remedy="end that one (`fuser` names it), or name another socket",
    )


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
