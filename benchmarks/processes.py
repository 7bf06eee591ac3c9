# SPDX-License-Identifier: Apache-2.0
"""Processes of a measurement: started apart from the terminal, their CPU time, memory and end.

CPU time is read from the process's own CPU clock, which counts all of its threads, also those that
have ended, by the nanosecond; the ticks of /proc/PID/stat would be too coarse for a short round.
Everything runs in a session of its own: Ctrl-C reaches the harness alone, which then takes down
what there is, in order.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from tests.support import processes

UNDO_S = 30.0
"""How long a program that is told to end may take for it: an attach undoes what it did."""
BIN = "/usr/local/sbin:/usr/sbin:/sbin"


class Failed(Exception):
    """A program of a measurement did not do what it should; the text is its own."""


def environment(**changes: str) -> dict[str, str]:
    """This process's environment, with the programs of root in reach."""
    return processes.environment(PATH=f"{os.environ.get('PATH', '')}:{BIN}", **changes)


def run(
    command: Sequence[str],
    *,
    seconds: float = 60,
    env: dict[str, str] | None = None,
    user: str | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program to its end and return its standard output.

    Raises:
        Failed: it cannot be started, ended with an error, or did not end in time.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env or environment(),
            user=user,
            group=user,
            extra_groups=[] if user else None,
            cwd=cwd,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise Failed(f"{error.filename} is not there; `make bench` installs it") from None
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)}: not over after {seconds:g} s") from None
    finally:
        if process.poll() is None:
            _end_session(process)
    if process.returncode:
        raise Failed(f"{' '.join(command)}: ended with {process.returncode}\n{out}{err}")
    return out


def _end_session(process: subprocess.Popen[str]) -> None:
    """End a program and its children: first so that it can undo what it has begun."""
    for number, patience in ((signal.SIGTERM, UNDO_S), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=patience)
            return


def run_counted(command: Sequence[str], *, seconds: float = 60) -> tuple[str, float]:
    """The same, and the CPU seconds that the program took from its start to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = run(command, seconds=seconds)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return out, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@contextlib.contextmanager
def daemon(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs until the block ends: then SIGTERM, and SIGKILL if that does nothing."""
    with log.open("ab") as file:
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment(),
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise Failed(f"{error.filename} is not there; `make bench` installs it") from None
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(
    condition: Callable[[], bool], what: str, *, process: subprocess.Popen[bytes], log: Path
) -> None:
    """Wait for what a daemon does at its start.

    Raises:
        Failed: it ended, or did not do it in time; with its log.
    """
    deadline = time.monotonic() + 20
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            raise Failed(f"{what}: did not happen\n{log.read_text(errors='replace')}")
        time.sleep(0.01)


def cpu_seconds(pids: Iterable[int]) -> float:
    """What these processes have used so far, user and system.

    Raises:
        Failed: one of them is gone.
    """
    total = 0.0
    for pid in pids:
        try:
            # clock_getcpuclockid(3): the clock of another process is named by its number.
            total += time.clock_gettime((~pid << 3) | 2)
        except OSError as error:
            raise Failed(f"process {pid} is gone: {error.strerror}") from None
    return total


def machine_seconds() -> float:
    """What all processors have done so far, interrupts and what was stolen included."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, *others = (int(field) for field in fields)
    return (user + nice + system + sum(others)) / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """All processes below this one."""
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = sorted(processes.children(waiting.pop()))
        found += children
        waiting += children
    return found


def memory_mib(pid: int) -> dict[str, float]:
    """``pss_mib`` (its share of what it shares, too) and ``private_mib`` of a process."""
    kib = {"Pss": 0, "Private_Clean": 0, "Private_Dirty": 0}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in kib:
            kib[name] = int(value.split()[0])
    private = kib["Private_Clean"] + kib["Private_Dirty"]
    return {"pss_mib": kib["Pss"] / 1024, "private_mib": private / 1024}


def thread_count(pid: int) -> int:
    """Threads of a process."""
    return len(os.listdir(f"/proc/{pid}/task"))


def descriptor_count(pid: int) -> int:
    """Open descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def processes_of(directory: Path) -> dict[int, str]:
    """The processes that work in a directory: by argument, working directory or open file."""
    found: dict[int, str] = {}
    text = str(directory)
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        line = processes.command_line(int(entry))
        with contextlib.suppress(OSError):
            places = [f"/proc/{entry}/cwd"]
            places += [f"/proc/{entry}/fd/{fd}" for fd in os.listdir(f"/proc/{entry}/fd")]
            if text in line or any(os.readlink(place).startswith(text) for place in places):
                found[int(entry)] = line
    return found
