# SPDX-License-Identifier: Apache-2.0
"""Containers that write to their volumes, read back, and compare, round after round.

A round is one run of fio with checksums: a fixed size, written twice and read back twice; that it
did read back is asked of its output, because fio has ways to verify nothing and still end with 0.
A writer ends by itself, and with an error, at the first thing that goes wrong. It is slow on
purpose: ten of them, and whatever is killed under them, share a machine with other tests.
"""

from __future__ import annotations

from tests.support import processes
from tests.support.dockerd import DockerEngine
from tests.support.images import WORKER
from tests.support.waiting import wait_until

ROUND_S = 120.0
"""For one more round of every writer on a busy machine; most take some seconds."""

SCRIPT = """\
set -eu
while [ ! -e /control/stop-$NAME ]; do
    fio --name=round --filename=/data/$NAME --rw=randwrite --bs=4k --size=256k --loops=2 \
        --ioengine=libaio --iodepth=4 --direct=1 --fsync=32 --rate_iops=150 \
        --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_state_save=0 \
        > /tmp/out 2>&1 || { cat /tmp/out; exit 3; }
    grep -q 'read: IOPS=.*(512KiB/' /tmp/out || { cat /tmp/out; echo 'nothing verified'; exit 4; }
    echo round >> /control/$NAME
done
"""


class Writers:
    """``start`` one on each volume, wait for ``more_rounds``, then ``finish`` them."""

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine
        self._control = engine.directory / "control"
        self._control.mkdir()
        self.names: list[str] = []
        self._pids: dict[str, int] = {}

    def start(self, volume: str, name: str = "", *, options: str = "") -> str:
        """Start one on a volume; several may share one, each with a file of its own. ``options``
        is what ``docker run --mount`` takes to make the volume."""
        name = name or f"writer-{volume}"
        self._engine.docker(
            *("run", "--detach", "--name", name, "--network", "none", "--env", f"NAME={name}"),
            *("--mount", f"type=volume,source={volume},target=/data{options}"),
            *("--mount", f"type=bind,source={self._control},target=/control"),
            *(WORKER, "/bin/sh", "-c", SCRIPT),
        )
        self.names.append(name)
        pid = self._engine.docker("inspect", "--format", "{{.State.Pid}}", name)
        self._pids[name] = int(pid)
        return name

    def rounds(self, name: str) -> int:
        """How many rounds a writer has done."""
        file = self._control / name
        return len(file.read_text().splitlines()) if file.exists() else 0

    def lives(self, name: str) -> bool:
        """Whether the first process of a container lives; asks no engine."""
        return processes.is_alive(self._pids[name])

    def check_running(self) -> None:
        """Every one of them still runs.

        Raises:
            AssertionError: one has ended; with what it printed.
        """
        states = self._engine.docker("inspect", "--format", "{{.State.Status}}", *self.names)
        for name, state in zip(self.names, states.split(), strict=True):
            if state != "running":
                printed = self._engine.docker("logs", name, check=False)
                raise AssertionError(f"{name} is {state}: {printed[-2000:]}")

    def more_rounds(self, count: int = 1) -> None:
        """Wait until each of them has done ``count`` more rounds than now.

        Raises:
            AssertionError, TimeoutError: one has ended, or gets no further.
        """
        goals = {name: self.rounds(name) + count for name in self.names}

        def missing() -> list[str]:
            return [name for name, goal in goals.items() if self.rounds(name) < goal]

        try:
            wait_until(lambda: not missing(), ROUND_S * count, "each writer has done a round more")
        except TimeoutError:
            self.check_running()
            raise AssertionError(f"no further: {missing()}\n{self._engine.logs()}") from None
        self.check_running()

    def finish(self, *names: str) -> None:
        """Let these, or all, end their round and themselves, and remove the containers.

        Raises:
            AssertionError: one of them saw an error.
        """
        wanted = list(names) or list(self.names)
        for name in wanted:
            (self._control / f"stop-{name}").touch()
        statuses = self._engine.docker("wait", *wanted).split()
        for name, status in zip(wanted, statuses, strict=True):
            printed = "" if status == "0" else self._engine.docker("logs", name, check=False)
            assert status == "0", f"{name} ended with {status}: {printed[-2000:]}"
        self.remove(*wanted)

    def remove(self, *names: str) -> None:
        """Remove these containers, or all, whatever they do."""
        wanted = list(names) or list(self.names)
        self._engine.docker("rm", "--force", *wanted)
        for name in wanted:
            self.names.remove(name)
