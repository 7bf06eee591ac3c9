# SPDX-License-Identifier: Apache-2.0
"""Files as an oracle: does a mounted filesystem hold what was written to it last?

A program of its own creates, overwrites, extends, renames, replaces and deletes files in a
directory and syncs them. Each block says whose it is, and of which generation. A journal outside
of the directory has a line before and after each operation, so the checker knows what every block
has to be: the newest. Where the program itself was killed in the middle of an operation, the old
and the new are both right, for what that operation touched.

The workload reads too, past its cached pages, so a stale block is found while it runs; the checker
is run at the end, after a new mount, so that what it sees comes from the device.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import processes

BLOCK = 4096
HEADER = 96
FILES = 24
"""In each thread's directory, at most ..."""
BLOCKS = 48
"""... of so many blocks: 4 threads need 18 MiB and a margin for files that are being replaced."""


class FilesWrong(AssertionError):
    """A block, a file or a directory is not what it has to be."""


def block_of(key: str, generation: int, index: int) -> bytes:
    """The only right content of a block: it can be told from any other, and from itself older."""
    header = f"{key} block {index} generation {generation}".encode().ljust(HEADER)
    return header + hashlib.shake_128(header).digest(BLOCK - HEADER)


def _described(data: bytes) -> str:
    """What a block that should be another one is."""
    header = data[:HEADER]
    if data == header + hashlib.shake_128(header).digest(BLOCK - HEADER):
        return header.decode(errors="replace").strip()
    return "all zeros" if not any(data) else f"torn or foreign: {data[:32]!r}..."


@dataclass(slots=True)
class File:
    """What a file has to be: whose, and the generation of each block."""

    key: str
    generations: list[int] = field(default_factory=list)


State = dict[str, File]
"""Name -> file, of one directory."""


def apply(state: State, change: dict[str, Any]) -> State:
    """The directory after one operation of the journal."""
    after = {name: File(each.key, list(each.generations)) for name, each in state.items()}
    name = change["name"]
    if change["kind"] == "write":
        file = after.get(name)
        if file is None or file.key != change["key"]:
            file = after[name] = File(change["key"])
        if change.get("truncate"):
            file.generations = []
        for index in change["blocks"]:
            file.generations += [0] * (index + 1 - len(file.generations))
            file.generations[index] = change["generation"]
    elif change["kind"] == "rename":
        after[change["to"]] = after.pop(name)
    elif change["kind"] == "unlink":
        del after[name]
    return after


# -- the program ----------------------------------------------------------------------------------


class Worker:
    """One thread with its own directory and its own journal."""

    def __init__(self, directory: Path, journal: Path, seed: int) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.choice = random.Random(seed)
        self.state: State = {}
        self.generation = 0
        self.operations = 0
        self._journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)

    def _note(self, **line: Any) -> None:
        os.write(self._journal, json.dumps({**line, "at": time.monotonic()}).encode() + b"\n")

    def _do(self, change: dict[str, Any]) -> None:
        self._note(begin=change)
        getattr(self, f"_{change['kind']}")(change)
        self.state = apply(self.state, change)
        self.operations += 1
        self._note(end=True)

    def _write(self, change: dict[str, Any]) -> None:
        path = self.directory / change["name"]
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if change.get("truncate") else 0)
        descriptor = os.open(path, flags, 0o600)
        try:
            for index in change["blocks"]:
                data = block_of(change["key"], change["generation"], index)
                if os.pwrite(descriptor, data, index * BLOCK) != BLOCK:
                    raise OSError("a short write")
            if change["sync"]:
                os.fsync(descriptor)
                # What is read next comes from the device.
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)

    def _rename(self, change: dict[str, Any]) -> None:
        os.rename(self.directory / change["name"], self.directory / change["to"])
        if change["sync"]:
            os.fsync(self._directory)

    def _unlink(self, change: dict[str, Any]) -> None:
        os.unlink(self.directory / change["name"])
        if change["sync"]:
            os.fsync(self._directory)

    def step(self) -> None:
        """One operation by chance."""
        choice = self.choice
        names = sorted(self.state)
        self.generation += 1
        sync = choice.random() < 0.8
        kind = choice.random()
        base = {"generation": self.generation, "sync": sync, "kind": "write"}
        if not names or (kind < 0.2 and len(names) < FILES):
            key = f"{self.directory.name}-{self.generation}"
            blocks = list(range(choice.randint(1, BLOCKS // 2)))
            self._do({**base, "name": f"new-{key}", "key": key, "blocks": blocks, "truncate": True})
            # As programs replace a file: written aside, synced, renamed over the old one.
            to = choice.choice(names) if names and choice.random() < 0.5 else f"file-{key}"
            self._do({"kind": "rename", "name": f"new-{key}", "to": to, "sync": sync})
            return
        name = choice.choice(names)
        file = self.state[name]
        if kind < 0.65:
            count = len(file.generations)
            last = min(count + (4 if choice.random() < 0.3 else 0), BLOCKS)
            holes = set(range(count, last))  # an extension leaves none
            blocks = sorted({choice.randrange(count) for _ in range(6)} | holes)
            self._do({**base, "name": name, "key": file.key, "blocks": blocks})
        elif kind < 0.75:
            to = f"moved-{self.directory.name}-{self.generation}"
            self._do({"kind": "rename", "name": name, "to": to, "sync": sync})
        elif kind < 0.82:
            self._do({"kind": "unlink", "name": name, "sync": sync})
        else:
            wrong = check_file(self.directory / name, [file])
            if wrong:
                raise FilesWrong(f"while running: {wrong}")

    def close(self) -> None:
        """Sync what is not synced yet."""
        os.fsync(self._directory)
        os.close(self._directory)
        os.close(self._journal)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def work(directory: Path, journals: Path, seed: int, threads: int) -> None:
    """Until standard input ends; errors end the program with status 1."""
    over = threading.Event()
    failures: list[str] = []
    workers = [
        Worker(directory / f"d{number}", journals / f"d{number}", seed * 1000 + number)
        for number in range(threads)
    ]

    def run(worker: Worker) -> None:
        try:
            while not over.is_set():
                worker.step()
            worker.close()
        except BaseException as error:
            failures.append(f"{worker.directory}: {type(error).__name__}: {error}")
            over.set()

    running = [threading.Thread(target=run, args=(worker,)) for worker in workers]
    for thread in running:
        thread.start()
    _say("running")

    def wait_for_the_end() -> None:
        sys.stdin.buffer.read()
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    for thread in running:
        thread.join()
    _say(json.dumps({"operations": sum(worker.operations for worker in workers)}))
    sys.stderr.write("\n".join(failures))
    sys.stderr.flush()
    os._exit(1 if failures else 0)  # a thread may still wait for standard input


# -- the checker ----------------------------------------------------------------------------------


def check_file(path: Path, allowed: Sequence[File], *, smallest: int | None = None) -> str:
    """What is wrong with a file that has to be one of ``allowed``; empty for nothing. A write that
    was broken off may have left it shorter, but not below ``smallest`` blocks."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return f"{path} is missing"
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        size = os.fstat(descriptor).st_size
        largest = max(len(each.generations) for each in allowed)
        sizes = range(largest if smallest is None else smallest, largest + 1)
        if size % BLOCK or size // BLOCK not in sizes:
            return f"{path} has {size} bytes, not {sizes[0] * BLOCK} to {largest * BLOCK}"
        for index in range(size // BLOCK):
            data = os.pread(descriptor, BLOCK, index * BLOCK)
            right = {
                block_of(each.key, each.generations[index], index)
                for each in allowed
                if index < len(each.generations)
            }
            if data not in right:
                wanted = " or ".join(sorted(_described(each) for each in right))
                return f"{path} block {index} is {_described(data)}, not {wanted}"
    finally:
        os.close(descriptor)
    return ""


def read_journal(path: Path) -> tuple[State, State, list[tuple[float, float]]]:
    """What a directory has to be, the same if the operation under way had its effect (else the
    same object), and begin and end of each operation by the monotonic clock."""
    state: State = {}
    pending: dict[str, Any] | None = None
    began = 0.0
    times = []
    for text in path.read_text().splitlines():
        line = json.loads(text)
        if "begin" in line:
            pending, began = line["begin"], line["at"]
        else:
            assert pending is not None
            state, pending = apply(state, pending), None
            times.append((began, line["at"]))
    return state, apply(state, pending) if pending else state, times


def check(directory: Path, journals: Path) -> list[str]:
    """Everything that is not as the journals say; empty when every file is the newest."""
    problems = []
    for journal in sorted(journals.iterdir()):
        place = directory / journal.name
        before, after, _ = read_journal(journal)
        must = before.keys() & after.keys()
        may = before.keys() | after.keys()
        found = set(os.listdir(place))
        problems += [f"{place / name} is missing" for name in sorted(must - found)]
        problems += [f"{place / name} should not be there" for name in sorted(found - may)]
        for name in sorted(found & may):
            allowed = [state[name] for state in (before, after) if name in state]
            smallest = min(len(each.generations) for each in allowed) if name in before else 0
            if wrong := check_file(place / name, allowed, smallest=smallest):
                problems.append(wrong)
    return problems


# -- in the test ----------------------------------------------------------------------------------


class FileWorkload:
    """``with FileWorkload(DIRECTORY, JOURNALS):`` the program runs for the length of the block;
    ``check`` is to be called after a new mount."""

    def __init__(self, directory: Path, journals: Path, *, seed: int = 1, threads: int = 4) -> None:
        self.directory = directory
        self.journals = journals
        self.seed = seed
        self.threads = threads
        self.operations = 0
        """Known at the end."""
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> FileWorkload:
        self.journals.mkdir()
        arguments = [str(self.directory), str(self.journals), str(self.seed), str(self.threads)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.files", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).resolve().parent.parent.parent,
            env=processes.environment(),
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "running\n":
            self._end(kill=True)
            raise FilesWrong("the file workload did not start")
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._end(kill=kind is not None)

    @property
    def running(self) -> bool:
        """Whether it still works; it ends by itself only for an error."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the program."""
        assert self._process is not None
        return self._process.pid

    def done(self) -> int:
        """Operations so far."""
        return sum(
            path.read_bytes().count(b'{"end"') for path in self.journals.iterdir() if path.is_file()
        )

    def _end(self, *, kill: bool, timeout: float = 90.0) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if kill:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise FilesWrong("the file workload does not end: an operation hangs") from None
        if not kill:
            if process.returncode != 0:
                raise FilesWrong(f"the file workload failed:\n{errors}")
            self.operations = json.loads(output)["operations"]

    def check(self, directory: Path | None = None) -> None:
        """Verify everything, where the filesystem is mounted now.

        Raises:
            FilesWrong: with every difference.
        """
        if problems := check(directory or self.directory, self.journals):
            raise FilesWrong("\n".join(problems))

    def stalls(self, moments: Sequence[float]) -> list[float]:
        """For each moment of the monotonic clock the longest operation, in seconds, that was under
        way then or began within the next tenth of a second: what a loss at that moment cost."""
        times = [pair for path in self.journals.iterdir() for pair in read_journal(path)[2]]
        return [
            max((end - begin for begin, end in times if begin - 0.1 <= moment <= end), default=0.0)
            for moment in moments
        ]


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
