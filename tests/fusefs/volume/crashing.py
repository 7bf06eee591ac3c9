# SPDX-License-Identifier: Apache-2.0
"""A process that does one thing with a volume and is killed at its Nth step, with all of ours.

A step is whatever can be cut off: each change of a file below the test's directory (seen by an
audit hook), each call that changes the host, before and after it, each request to the holder, each
step that the worker tells of. Nothing of this is in the code that is tested: the host and the
holder client are handed to a manager anyway.

It is run once as a helper, in a mount namespace of its own, so that no container of another test
holds copies of its mounts. It has everything imported, and forks a process for each request: one
JSON object a line, ``run`` an operation or ``check`` what it left; it answers with the wait status.
A run that is not killed writes the names of its steps to ``<base>/steps``.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import anyio

from fusefs.host import LinuxHost
from fusefs.process.holder_client import HolderClient
from fusefs.process.launch import StartedWorker
from fusefs.process.messages import StartDocument
from fusefs.spec import VolumeSpec
from fusefs.volume.known import KnownVolumes
from fusefs.volume.manager import VolumeManager

CASE_VARIABLE = "PYSCSI_INIT_TEST_CASE"
MESSAGE = "written before the crash"

CHANGES = (
    "loop_attach",
    "loop_detach",
    "loop_set_capacity",
    "grow_filesystem",
    "write_format_mark",
    "mkfs",
    "remove_format_mark",
    "wipe_unfinished",
    "fsck",
    "sync",
    "mount",
    "bind",
    "umount",
    "prepare_directory",
    "make_private_unbindable",
    "open_fuse",
    "fuse_abort",
)
FILE_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


LOOKS = 5


def of_case(case: str) -> list[int]:
    """Every living process that was started for a case, but this one."""
    needle = f"{CASE_VARIABLE}={case}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            marked = needle in Path(f"/proc/{entry}/environ").read_bytes().split(b"\0")
            state = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if marked and state not in (b"Z", b"X"):
            found.append(int(entry))
    return found


def kill_all(case: str) -> None:
    """SIGKILL for each process of a case; returns when all are dead, as their pidfds say."""
    looks = 0
    while looks < LOOKS:  # one that is in the middle of execve(2) shows nothing to know it by
        pids = of_case(case)
        looks = 0 if pids else looks + 1
        time.sleep(0.01)
        for pid in pids:
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                if not poll.poll(30_000):
                    raise TimeoutError(f"process {pid} does not end")
            except ProcessLookupError:
                pass
            finally:
                os.close(descriptor)


class Steps:
    """Counts steps from :meth:`arm` on, and ends everything at one of them."""

    def __init__(self, case: str, base: str, at: int, whom: str) -> None:
        self._case = case
        self._base = base
        self._at = at
        self._whom = whom
        self._lock = threading.Lock()
        self._armed = False
        self.names: list[str] = []

    def arm(self) -> None:
        self._armed = True

    def disarm(self) -> None:
        self._armed = False

    def hit(self, name: str) -> None:
        if not self._armed:
            return
        with self._lock:
            self.names.append(name)
            if len(self.names) != self._at:
                return
            if self._whom == "all":
                kill_all(self._case)
            os.kill(os.getpid(), signal.SIGKILL)
            signal.pause()

    def audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._armed:
            return
        if event == "open":
            path, _, flags = arguments
            if not (isinstance(flags, int) and flags & os.O_CREAT):
                return
        elif event in FILE_EVENTS:
            path = arguments[0]
        else:
            return
        text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else ""
        if event == "os.mkdir" and os.path.isdir(text):
            return  # which changes nothing
        if text.startswith(self._base) and "/locks/" not in text:
            name = text.removeprefix(self._base).replace(str(os.getpid()), "PID")
            self.hit(f"{event} {name}")


def stepped_host(steps: Steps) -> LinuxHost:
    """This host, with a step before and after each call that changes it."""

    def stepped(name: str) -> Callable[..., Any]:
        def call(self: LinuxHost, *arguments: Any, **options: Any) -> Any:
            steps.hit(f"before {name}")
            result = getattr(LinuxHost, name)(self, *arguments, **options)
            steps.hit(f"after {name}")
            return result

        return call

    return type("SteppedHost", (LinuxHost,), {name: stepped(name) for name in CHANGES})()


class SteppedHolder(HolderClient):
    """With a step before and after what changes the holder."""

    steps: Steps

    async def start(
        self, document: StartDocument, descriptors: Mapping[str, int], log: Path
    ) -> StartedWorker:
        self.steps.hit("before start of the worker")
        worker = await super().start(document, descriptors, log)
        self.steps.hit("after start of the worker")
        return worker

    async def forget(self, name: str) -> None:
        self.steps.hit("before the holder forgets")
        await super().forget(name)
        self.steps.hit("after the holder forgot")


class Case:
    """What the process of a case works with."""

    def __init__(self, base: str, url: str, steps: Steps) -> None:
        self.base = Path(base)
        self.steps = steps
        self.spec = VolumeSpec(name="data", url=url, format_if_blank=True)
        host = stepped_host(steps)
        holder = SteppedHolder(self.base / "run", host)
        holder.steps = steps
        self.manager = VolumeManager(host, self.base / "run", self.base / "state", holder=holder)
        self.known = KnownVolumes(self.manager)

    async def in_use(self) -> None:
        await self.known.define(self.spec, owner="test")
        path = await self.known.use("data", "one")

        def write() -> None:
            with (path / "file").open("w") as stream:
                stream.write(MESSAGE)
                stream.flush()
                os.fsync(stream.fileno())

        await anyio.to_thread.run_sync(write)


async def use(case: Case) -> None:
    """From a blank LUN to a directory, worker's steps included."""
    await case.known.define(case.spec, owner="test")
    # The worker's own steps are told to whoever attaches; `use` has nobody to tell.
    attach = case.manager.ensure_mounted

    async def heard(spec: VolumeSpec, path: Path) -> Any:
        return await attach(spec, path, None, lambda step: case.steps.hit(f"told: {step}"))

    case.manager.ensure_mounted = heard  # type: ignore[assignment,method-assign]
    case.steps.arm()
    await case.known.use("data", "one")


async def release(case: Case) -> None:
    await case.in_use()
    case.steps.arm()
    await case.known.release("data", "one")


async def publish(case: Case) -> None:
    await case.in_use()
    case.steps.arm()
    await case.manager.ensure_published("data", case.base / "bound", read_only=True)
    await case.manager.publish_device("data", case.base / "device")
    await case.manager.ensure_unpublished("data", case.base / "bound")
    await case.manager.ensure_unpublished("data", case.base / "device")


async def define_and_remove(case: Case) -> None:
    await case.in_use()
    await case.known.release("data", "one")
    case.steps.arm()
    await case.known.remove("data")
    await case.known.define(case.spec, owner="test")


OPERATIONS: dict[str, Callable[[Case], Awaitable[None]]] = {
    "use": use,
    "release": release,
    "publish": publish,
    "remove": define_and_remove,
}


def run(base: str, url: str, case: str, operation: str, at: int, whom: str) -> None:
    """Run an operation and end at its step ``at``; with 0 it goes on to its end."""
    os.environ[CASE_VARIABLE] = case
    steps = Steps(case, base, at, whom)
    sys.addaudithook(steps.audit)
    stage = Case(base, url, steps)
    anyio.run(OPERATIONS[operation], stage)
    steps.disarm()
    (stage.base / "steps").write_text("\n".join(steps.names))


def main() -> None:
    from tests.fusefs.volume.crash_checks import check
    from tests.fusefs.volume.cut_mkfs import cut

    verbs: dict[str, Callable[..., None]] = {"run": run, "check": check, "cut": cut}
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            status = 1
            try:
                verbs[request.pop("do")](**request)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{status}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
