# SPDX-License-Identifier: Apache-2.0
"""A private network namespace: its own loopback and ports, seen by nobody else on the machine.

A socket stays in the namespace in which it was made. So it is enough that the thread (or the
process) that makes the sockets is inside: ``entered()`` moves the calling thread there for the
length of a block, and whatever it starts meanwhile (threads, processes, event loops) is there too.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from . import processes
from .requirements import missing, require

T = TypeVar("T")
CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"setns: {os.strerror(code)}")


class NetworkNamespace:
    """``with NetworkNamespace() as namespace:`` makes it, with its loopback up, and removes it."""

    def __init__(self, prefix: str = "test") -> None:
        self._ip = require("ip")
        if os.geteuid() != 0:
            missing("network namespaces need root")
        self.name = f"{prefix}-{os.getpid()}-{next(_numbers)}"

    def __enter__(self) -> NetworkNamespace:
        self.make()
        return self

    def make(self) -> None:
        """Make it; again, after :meth:`close`, under the same name."""
        self._run(self._ip, "netns", "add", self.name)
        try:
            self.run("ip", "link", "set", "lo", "up")
        except BaseException:
            self.close()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the name; the namespace lives on while a process or a socket is in it."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self._run(self._ip, "netns", "del", self.name)

    @property
    def path(self) -> Path:
        """The file that stands for the namespace, as ``nsenter --net=`` takes it."""
        return Path("/run/netns", self.name)

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, timeout=20)

    def command(self, *command: str) -> list[str]:
        """The command line that runs ``command`` inside. It replaces itself by the command, so
        the process id is the command's own. (``ip netns exec`` would also take a copy of every
        mount of the machine, and keep other tests' filesystems busy for as long as it runs.)"""
        return [require("nsenter"), f"--net={self.path}", "--", *command]

    def run(self, *command: str, timeout: float = 20.0) -> str:
        """Run a command inside and return what it printed.

        Raises:
            subprocess.CalledProcessError: it ended with an error.
        """
        result = subprocess.run(
            self.command(*command),
            check=True,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=processes.environment(),
        )
        return result.stdout

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread, and what it starts, is inside for the length of the block."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            inside = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(inside)
            finally:
                os.close(inside)
            try:
                yield
            finally:
                _setns(before)
        finally:
            os.close(before)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call a function in a thread of its own that is inside, and return its result."""
        results: list[T] = []
        errors: list[BaseException] = []

        def main() -> None:
            try:
                with self.entered():
                    results.append(function(*args))
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=main)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]
