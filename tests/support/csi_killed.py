# SPDX-License-Identifier: Apache-2.0
"""The CSI driver, killed at its Nth step; and the next one, on the same directories, at once.

A helper has everything imported and forks a driver each time, so that a start costs milliseconds.
What a step is, is told in tests/fusefs/volume/crashing.py: each change of a file below the test's
directory, each call that changes the host, before and after it, each request to the holder; and
here: each question for the fill level, each session of a pool and each wipe in it, each tgtadm that
changes something, before it, while it runs and after it. Only the driver itself is killed: holder,
zygote and worker are no processes of its own, and a tgtadm that runs goes on.
"""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import anyio
import grpc
from google.protobuf.message import Message

from fusefs.csi import node
from fusefs.csi.server import CsiServer
from fusefs.host import Host
from fusefs.volume import pool_units
from fusefs.volume.manager import VolumeManager
from fusefs.volume.pool import PoolProvisioner
from fusefs.volume.status import VolumeStatus
from fusefs.volume.tgt import TgtProvisioner
from fusefs.volume.usage import Usage, usage
from pyscsi_init.device import BlockRequest, Operation
from pyscsi_init.device.wrapper import WrappedDevice
from pyscsi_init.secret import Chap
from pyscsi_init.url import IscsiUrl
from tests.fusefs.volume.crashing import SteppedHolder, Steps, stepped_host
from tests.support import processes, totals
from tests.support.csi_driver import Driver
from tests.support.source import ROOT

STUCK_S = 50
"""A driver that takes so long to start tells where it is."""
WAIT_S = 30.0
WIPED_AT_ONCE = 8 << 20


class WrittenSteps(Steps):
    """Each step is written down before it counts, for whoever survives. ``at`` is a number, or a
    part of the name of a step."""

    def __init__(self, base: str, at: int | str) -> None:
        super().__init__("", base, at if isinstance(at, int) else 0, "self")
        self._name = at if isinstance(at, str) else ""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(f"{base}/steps", flags, 0o600)

    def hit(self, name: str) -> None:
        if name.startswith("os.mkdir ") and os.path.lexists(self._base + name.split()[1]):
            return  # nothing is made, so nothing can be cut off
        if self._armed and "csi.sock" not in name:
            os.write(self._file, f"{name}\n".encode())
            if self._name and self._name in name:
                self._at = len(self.names) + 1
            super().hit(name)


class KilledDriver(Driver):
    """``start(at=N)`` runs a driver that kills itself at its Nth step, or at the first whose name
    has that in it; 0 never does."""

    def begin(self) -> None:
        with self.log.open("ab") as log:
            self._helper = subprocess.Popen(
                [sys.executable, "-m", "tests.support.csi_killed"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**self._environment, "GRPC_ENABLE_FORK_SUPPORT": "0"},
                cwd=ROOT,
                text=True,
            )
        self._runs = False
        self.start()

    def start(self, at: int | str = 0) -> None:
        self._ask({"do": "start", "base": str(self.base), "at": at})
        self._runs = True
        self.await_answers()

    def _died(self) -> bool:
        return False

    def _ask(self, request: dict[str, object]) -> int:
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        self._helper.stdin.write(json.dumps(request) + "\n")
        self._helper.stdin.flush()
        return int(self._helper.stdout.readline())

    def kill(self) -> None:
        if self._runs:
            self._ask({"do": "kill"})
            self._runs = False

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for its own end; the signal, 0 if it does not come."""
        status = self._ask({"do": "wait"})
        self._runs = False
        return os.WTERMSIG(status)

    def killed_in(self, method: str, request: Message, at: int | str) -> bool:
        """Make the call on a driver that dies at a step of it; whether it did. Another one runs
        then."""
        self.kill()
        self.start(at)
        code, text = self.client.refusal(method, request)
        died = code == "UNAVAILABLE"
        if died:
            totals.count(f"{method} killed inside")
            assert self.wait() == signal.SIGKILL, text
        else:
            assert code == "OK", text
            self.kill()
        self.start()
        return died

    def steps(self) -> list[str]:
        """The names of all steps so far."""
        path = self.base / "steps"
        return path.read_text().splitlines() if path.exists() else []

    def close(self) -> None:
        self.kill()
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        self._helper.stdin.close()
        self._helper.wait(60)
        self._helper.stdout.close()
        self.client.close()


class Life(Protocol):
    """What is made, used and undone by calls, one after the other, as often as it is begun."""

    driver: KilledDriver

    @property
    def methods(self) -> Sequence[str]: ...
    def begin(self) -> None: ...
    def prepare(self, method: str) -> None: ...
    def request(self, method: str) -> Message: ...
    def call(self, method: str) -> None: ...
    def check(self, method: str) -> None: ...


def kill_at_points(life: Life, points: Mapping[str, Sequence[str]]) -> None:
    """Each call is killed at its points, one after the other, and then made twice."""
    life.begin()
    for method in life.methods:
        life.prepare(method)
        for point in points[method]:
            assert life.driver.killed_in(method, life.request(method), point), (method, point)
        for _ in range(2):
            life.call(method)
            life.check(method)


def kill_at_every_step(life: Life) -> None:
    """In the life of number N each call is killed at its step N, should it have so many."""
    steps = steps_of(life)
    assert all(names for names in steps.values()), steps
    for at in range(1, max(map(len, steps.values())) + 1):
        life.begin()
        for method, names in steps.items():
            life.prepare(method)
            where = f"{method} step {at} of {len(names)}: {names[min(at, len(names)) - 1]}"
            try:
                if at <= len(names):
                    assert life.driver.killed_in(method, life.request(method), at)
                life.call(method)
                life.check(method)
            except (AssertionError, grpc.RpcError) as error:
                error.add_note(where)
                raise


def steps_of(life: Life) -> dict[str, list[str]]:
    """The steps of each call, from a life in which nobody is killed: the second one, because the
    first makes the directories of a node too."""
    found: dict[str, list[str]] = {}
    for _ in range(2):
        life.begin()
        for method in life.methods:
            life.prepare(method)
            before = len(life.driver.steps())
            life.call(method)
            found[method] = life.driver.steps()[before:]
            life.check(method)
    return found


# -- in the driver --------------------------------------------------------------------------------


class SteppedUnit(WrappedDevice):
    """A step before each request of a wipe."""

    def __init__(self, inner: Any, steps: Steps) -> None:
        super().__init__(inner)
        self._steps = steps

    def submit(self, request: BlockRequest) -> None:
        if request.operation is Operation.WRITE_ZEROES:
            self._steps.hit(f"before zeros at {request.offset}")
        super().submit(request)


def stepped_opener(steps: Steps) -> pool_units.Opener:
    @contextlib.asynccontextmanager
    async def opener(url: IscsiUrl, credentials: Chap | None) -> AsyncIterator[pool_units.OpenUnit]:
        steps.hit(f"before login to LUN {url.lun}")
        async with pool_units.open_unit(url, credentials) as unit:
            steps.hit(f"after login to LUN {url.lun}")
            yield dataclasses.replace(unit, device=SteppedUnit(unit.device, steps))
            steps.hit(f"before logout from LUN {url.lun}")

    return opener


def step_tgtadm(steps: Steps) -> None:
    """What changes a tgt: before it is asked, while it is asked, and after its answer."""
    communicate = subprocess.Popen.communicate
    execute = subprocess.Popen.__init__

    def named(command: Any) -> str:
        words = [str(word) for word in command] if isinstance(command, (list, tuple)) else []
        if not words or not words[0].endswith("tgtadm") or "show" in words:
            return ""
        return " ".join(words[words.index("--op") :])

    def init(self: Any, command: Any, *arguments: Any, **options: Any) -> None:
        if name := named(command):
            steps.hit(f"before tgtadm {name}")
        execute(self, command, *arguments, **options)
        if name:
            steps.hit(f"during tgtadm {name}")

    def waited(self: Any, *arguments: Any, **options: Any) -> Any:
        result = communicate(self, *arguments, **options)
        if name := named(self.args):
            steps.hit(f"after tgtadm {name}")
        return result

    subprocess.Popen.__init__ = init  # type: ignore[method-assign,assignment]
    subprocess.Popen.communicate = waited  # type: ignore[method-assign]


def step_usage(steps: Steps) -> None:
    async def stepped(host: Host, volume: VolumeStatus, path: str) -> Usage:
        steps.hit("before usage")
        found = await usage(host, volume, path)
        steps.hit("after usage")
        return found

    node.usage = stepped  # type: ignore[attr-defined]


def serve(base: Path, at: int | str) -> None:
    """Be a driver until killed."""
    faulthandler.dump_traceback_later(STUCK_S)
    steps = WrittenSteps(str(base), at)
    sys.addaudithook(steps.audit)
    host = stepped_host(steps)
    holder = SteppedHolder(base / "run", host)
    holder.steps = steps
    step_tgtadm(steps)
    step_usage(steps)
    pool_units.WIPE_BYTES = WIPED_AT_ONCE
    manager = VolumeManager(host, base / "run", base / "state", lock_timeout_s=0, holder=holder)
    provisioned = base / "state" / "provisioned"
    server = CsiServer(
        str(base / "csi.sock"),
        manager=manager,
        provisioners=[
            PoolProvisioner(provisioned / "pool", opener=stepped_opener(steps)),
            TgtProvisioner(provisioned / "tgt"),
        ],
        node_id="n",
    )
    steps.arm()

    async def run() -> None:
        async with anyio.create_task_group() as group:
            await group.start(lambda task_status: server.serve(stop, task_status=task_status))
            faulthandler.cancel_dump_traceback_later()

    stop = anyio.Event()

    anyio.run(run, backend="asyncio")


def ended(child: int, seconds: float) -> int:
    """The wait status of a child that ends by itself; 0 for one that goes on, which is killed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return 0


def main() -> None:
    child = 0
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        answer = 0
        if request["do"] == "start":
            child = answer = os.fork()
            if not child:
                try:
                    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
                    os.dup2(2, 1)
                    serve(Path(request["base"]), request["at"])
                finally:
                    os._exit(1)
        elif request["do"] == "kill":
            os.kill(child, 9)
            _, answer = os.waitpid(child, 0)
        else:
            answer = ended(child, WAIT_S)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    processes.mark_session()
    main()
