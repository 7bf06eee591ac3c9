# SPDX-License-Identifier: Apache-2.0
"""Containers that write to their volumes, read back, and compare, round after round.

A round is one run of fio with checksums: a fixed size, written twice and read back twice; that it
did read back is asked of its output, because fio has ways to verify nothing and still end with 0.
A writer ends by itself, and with an error, at the first thing that goes wrong.
"""

from __future__ import annotations

import functools
from pathlib import Path

from tests.support.dockerd import DockerEngine
from tests.support.images import WORKER
from tests.support.waiting import wait_until

ROUND_S = 90.0
"""For one more round of every writer on a busy machine; most take a few seconds."""

SCRIPT = """\
set -eu
while [ ! -e /control/stop ]; do
    fio --name=round --filename=/data/$FILE --rw=randwrite --bs=4k --size=2m --loops=2 \
        --ioengine=libaio --iodepth=8 --direct=1 --verify=crc32c --verify_fatal=1 --do_verify=1 \
        --verify_state_save=0 > /tmp/out 2>&1 || { cat /tmp/out; exit 3; }
    grep -q 'read: IOPS=.*(4096KiB/' /tmp/out || { cat /tmp/out; echo 'nothing verified'; exit 4; }
    echo round
done
"""


class Writers:
    """``start`` one on each volume, wait for ``more_rounds``, ``finish`` and ``remove`` them."""

    def __init__(self, engine: DockerEngine) -> None:
        self._engine = engine
        self._control = engine.directory / "control"
        self._control.mkdir()
        self.names: list[str] = []

    def start(self, volume: str, name: str = "") -> str:
        """Start one on a volume; several may share one, each with a file of its own."""
        name = name or f"writer-{volume}"
        self._engine.docker(
            *("run", "--detach", "--name", name, "--network", "none"),
            *("--volume", f"{volume}:/data", "--volume", f"{self._control}:/control:ro"),
            *("--env", f"FILE={name}", WORKER, "/bin/sh", "-c", SCRIPT),
        )
        self.names.append(name)
        return name

    def rounds(self, name: str) -> int:
        """How many rounds a writer has done.

        Raises:
            AssertionError: it has ended; with what it printed.
        """
        state = self._engine.docker("inspect", "--format", "{{.State.Status}}", name).strip()
        printed = self._engine.docker("logs", name, check=False)
        assert state == "running", f"{name} is {state}: {printed[-2000:]}"
        return printed.splitlines().count("round")

    def more_rounds(self, count: int = 1, names: list[str] | None = None) -> None:
        """Wait until each of them has done ``count`` more rounds than now."""
        for name, wanted in {n: self.rounds(n) + count for n in names or self.names}.items():
            more = functools.partial(lambda n, w: self.rounds(n) >= w, name, wanted)
            wait_until(more, ROUND_S * count, f"{name} has done {wanted} rounds")

    def finish(self) -> None:
        """Let each end its round and itself.

        Raises:
            AssertionError: one of them saw an error.
        """
        (self._control / "stop").touch()
        for name in self.names:
            status = self._engine.docker("wait", name).strip()
            printed = self._engine.docker("logs", name, check=False)
            assert status == "0", f"{name} ended with {status}: {printed[-2000:]}"
            assert "round" in printed

    def remove(self, *names: str, force: bool = False) -> None:
        """Remove these containers, or all."""
        wanted = list(names) or list(self.names)
        self._engine.docker("rm", *(["--force"] if force else []), *wanted)
        for name in wanted:
            self.names.remove(name)


def journal_errors(directory: Path) -> list[str]:
    """Lines of the plugin's and the volumes' logs that tell of a lost I/O."""
    found = []
    for log in (*directory.glob("volumes/volumes/*/log"), directory / "plugin.log"):
        if log.exists():
            lines = log.read_text(errors="replace").splitlines()
            found += [line for line in lines if "I/O error" in line]
    return found
