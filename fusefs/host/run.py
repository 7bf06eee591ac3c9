# SPDX-License-Identifier: Apache-2.0
"""Programs of the system: started without a shell, in the C locale, with a deadline.

One helper, so that no other file of the project starts mkfs or fsck in its own way. Input is empty,
so a program that wants to ask a question gets end of file. Output is kept for the error message,
standard error after standard output. It knows nothing of what a program means by its exit status.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fusefs.errors import CommandFailed, NotAllowed, Timeout

SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Used where PATH is unset or lacks the sbin directories, as for a service or a plain user."""

KILL_GRACE_S = 5.0
"""After SIGKILL a program in an uninterruptible wait stays; then it is left alone."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that has ended."""

    command: tuple[str, ...]
    exit_status: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """All that it printed."""
        return "\n".join(part for part in (self.stdout.rstrip(), self.stderr.rstrip()) if part)


def search_path() -> str:
    """PATH, with the directories of system programs appended."""
    present = os.environ.get("PATH", "").split(":")
    return ":".join([*(p for p in present if p), *(p for p in SYSTEM_PATH.split(":"))])


def find_program(name: str) -> str | None:
    """Where a program lies, or None."""
    return shutil.which(name, path=search_path())


def require_program(name: str, package: str) -> str:
    """Where a program lies.

    Raises:
        NotAllowed: it is not installed.
    """
    path = find_program(name)
    if path is None:
        raise NotAllowed(f"run {name}", "it is not installed", remedy=f"install {package}")
    return path


def run(
    command: Sequence[str],
    *,
    timeout_s: float,
    accept: Sequence[int] | None = (0,),
    what: str = "",
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a program to its end.

    ``accept`` lists the exit statuses that are no failure; None accepts all.

    Raises:
        CommandFailed: it could not be started, or ended with another status (negative: a signal).
        Timeout: it was killed after ``timeout_s``.
    """
    argv = tuple(os.fspath(part) for part in command)
    env = {"PATH": search_path(), "LC_ALL": "C", "LANG": "C", "HOME": "/"}
    env.update(environment or {})
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd="/",
            pass_fds=pass_fds,
            # A Ctrl-C at the terminal must not stop mkfs half way: we decide when it ends.
            start_new_session=True,
        )
    except OSError as fault:
        raise CommandFailed(
            argv,
            exit_status=None,
            output=fault.strerror or str(fault),
            what=what,
            remedy=f"install {argv[0]}" if isinstance(fault, FileNotFoundError) else "",
        ) from fault
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _kill(process)
        raise Timeout(what or f"`{shlex.join(argv)}`", timeout_s) from None
    except BaseException:
        _kill(process)
        raise
    completed = Completed(
        argv,
        process.returncode,
        stdout.decode("utf-8", "replace"),
        stderr.decode("utf-8", "replace"),
    )
    if accept is not None and completed.exit_status not in accept:
        raise CommandFailed(
            argv, exit_status=completed.exit_status, output=completed.output, what=what
        )
    return completed


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the program and what it started, and collect it if the kernel lets it go."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILL_GRACE_S)
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    if process.returncode is None:
        # It cannot be collected now; without this, dropping the object warns about it.
        process.returncode = -signal.SIGKILL
