# SPDX-License-Identifier: Apache-2.0
"""What a session costs inside a container: through bridge and NAT, and beside it everything less.

A Docker Engine in a network namespace of its own, tgt in another one behind it
(tests/support/bridge.py): every subject comes to the same target over the same last link.

- ``nat``: the library. In a container behind bridge and NAT ("ours"), behind a bridge whose
  addresses the storage network knows, so without translation; in a container with the host's
  network; and on the host. Each is a process with a session that stays for the whole level.
- ``nat-mount``: fio on a file of ext4. On a volume that a container has mounted for itself, with
  its session behind NAT ("ours"), and on one that the host has mounted and a container has bound.

Besides the CPU time of the initiator the target's is told, and that of the whole machine: what the
kernel does for a packet is charged to whoever happens to run.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import processes
from tests.support.bridge import BridgedDocker, DockerError, storage_target
from tests.support.python_image import IMAGE, VOLUME_PROGRAMS, import_image
from tests.support.source import ROOT

from . import criteria, fio
from .criteria import HOST, HOST_MOUNT, HOST_NETWORK, ROUTED
from .level import Context, Level
from .model import OURS, Case
from .processes import Failed, cpu_seconds, daemon, descendants, machine_seconds, run, wait_until
from .targets import IQN, fill
from .volumes import mounted

LUN_BYTES = 512 << 20
FILE_BYTES = 256 << 20
DIRECTORY = "/srv/data"
CASES = [
    criteria.READ_1, criteria.WRITE_1, criteria.READ_32, criteria.WRITE_32,
    criteria.SEQ_256K, criteria.SEQ_256K_WRITE, criteria.SEQ_READ, criteria.SEQ_WRITE,
]  # fmt: skip
MOUNTING = [
    "--init", "--cap-add=SYS_ADMIN", "--device=/dev/fuse", "--device=/dev/loop-control",
    "--device-cgroup-rule=b 7:* rwm", "--volume=/dev:/dev",
    "--env=VOLUME_OPTIONS=--format-if-blank",
]  # fmt: skip
"""What a container needs to mount for itself, as examples/in-container tells."""


@dataclass(frozen=True, slots=True)
class Stage:
    """The engine and the target."""

    engine: BridgedDocker
    urls: tuple[str, ...]
    target_pid: int


@contextlib.contextmanager
def stage(context: Context, level: str, luns: int) -> Iterator[Stage]:
    """Engine, image and target for the block; LUNs in memory, full of random data."""
    try:
        context.step(f"{level}: start a Docker Engine")
        with BridgedDocker() as engine, storage_target(engine) as tgt:
            context.step(f"{level}: make an image")
            import_image(engine, programs=VOLUME_PROGRAMS)
            tid = tgt.new_target(IQN)
            for number in range(1, luns + 1):
                disk = context.memory / f"{level}-{number}"
                if level == "nat":
                    fill(disk, LUN_BYTES)
                tgt.add_lun(tid, number, disk, size_bytes=LUN_BYTES)
            urls = tuple(tgt.url(tid, number) for number in range(1, luns + 1))
            yield Stage(engine, urls, tgt.pid)
    except DockerError as error:
        raise Failed(str(error)) from error
    except (pytest.skip.Exception, pytest.fail.Exception) as error:
        # The starters belong to the tests, where a missing part ends a test.
        raise Failed(str(error)) from None


def with_clocks(
    stage: Stage, measure: Callable[[], dict[str, float]], seconds: float
) -> dict[str, float]:
    """A sample, and for each of its I/Os the CPU time of the target and of the whole machine."""
    target, machine = cpu_seconds([stage.target_pid]), machine_seconds()
    values = measure()
    ios = values["iops"] * seconds
    values["target_us"] = (cpu_seconds([stage.target_pid]) - target) / ios * 1e6
    values["machine_us"] = (machine_seconds() - machine) / ios * 1e6
    return values


# -- the library ----------------------------------------------------------------------------------


@contextlib.contextmanager
def nat(context: Context) -> Iterator[Level]:
    """The level of the library."""
    with contextlib.ExitStack() as stack:
        there = stack.enter_context(stage(context, "nat", 1))
        engine, url = there.engine, there.urls[0]
        routed = engine.routed_network()
        agent = f"--volume={ROOT / 'benchmarks' / 'agent.py'}:/agent.py:ro"
        contained = ["run", "--rm", "--interactive", agent]
        inside = [IMAGE, "python3", "/agent.py", url]
        commands = {
            OURS: engine.command(*contained, *inside),
            ROUTED: engine.command(*contained, f"--network={routed}", *inside),
            HOST_NETWORK: engine.command(*contained, "--network=host", *inside),
            HOST: engine.host.command(sys.executable, "-m", "benchmarks.agent", url),
        }
        agents = {}
        for subject, command in commands.items():
            context.step(f"nat: log in {subject}")
            agents[subject] = stack.enter_context(Agent.running(command, engine.environment()))

        def measure(case: Case, subject: str) -> dict[str, float]:
            return with_clocks(
                there, lambda: agents[subject].measure(case, context.seconds), context.seconds
            )

        yield Level("nat", CASES, lambda _: list(commands), measure)


class Agent:
    """One of benchmarks/agent.py, wherever it runs."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    @classmethod
    @contextlib.contextmanager
    def running(cls, command: list[str], environment: dict[str, str]) -> Iterator[Agent]:
        """One that has logged in, for the block."""
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
            start_new_session=True,
        )
        try:
            agent = cls(process)
            agent._answer()
            yield agent
        finally:
            assert process.stdin is not None
            assert process.stdout is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()  # it logs out and ends
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()

    def measure(self, case: Case, seconds: float) -> dict[str, float]:
        """One sample."""
        load = {
            "pattern": case.pattern,
            "block_size": case.block_size,
            "depth": case.depth,
            "seconds": seconds,
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(load) + "\n")
        self._process.stdin.flush()
        found = self._answer()
        latency = found["latency_us"]
        return {
            "iops": found["iops"],
            "mib_s": found["bytes_per_second"] / 2**20,
            "cpu_us": found["cpu_us_per_io"],
            "p50_us": latency["p50"],
            "p99_us": latency["p99"],
        }

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Failed(f"{' '.join(self._process.args)}: has ended")  # type: ignore[arg-type]
        found: dict[str, Any] = json.loads(line)
        return found


# -- mounted volumes ------------------------------------------------------------------------------


@contextlib.contextmanager
def nat_mount(context: Context) -> Iterator[Level]:
    """The level of mounted volumes."""
    with contextlib.ExitStack() as stack:
        there = stack.enter_context(stage(context, "nat-mount", 2))
        engine = there.engine
        served = {
            OURS: stack.enter_context(_mounts_itself(context, there, there.urls[0])),
            HOST_MOUNT: stack.enter_context(_bound(context, engine, there.urls[1])),
        }
        for subject, (file, _) in served.items():
            context.step(f"nat-mount: fill a file for {subject}")
            run([
                "fio", "--name=fill", f"--filename={file}", f"--size={FILE_BYTES}", "--rw=write",
                "--bs=1M", "--direct=1", "--ioengine=libaio", "--iodepth=4", "--end_fsync=1",
            ])  # fmt: skip

        def measure(case: Case, subject: str) -> dict[str, float]:
            file, pids = served[subject]
            extra = [f"--size={FILE_BYTES}", "--overwrite=1"]
            return with_clocks(
                there,
                lambda: fio.measure([str(file)], case, context.seconds, pids, extra=extra),
                context.seconds,
            )

        yield Level("nat-mount", CASES, lambda _: list(served), measure)


def _file_in(engine: BridgedDocker, container: str) -> Path:
    """A file on the volume, reached through the container's own mounts.

    Raises:
        Failed: there is no file system of a volume.
    """
    pid = engine.pid_of(container)
    table = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    if not any(f" {DIRECTORY} " in line and " - ext4 /dev/loop" in line for line in table):
        raise Failed(f"{container}: no volume is mounted on {DIRECTORY}")
    return Path(f"/proc/{pid}/root{DIRECTORY}/fio")


@contextlib.contextmanager
def _mounts_itself(
    context: Context, there: Stage, url: str
) -> Iterator[tuple[Path, tuple[int, ...]]]:
    engine, name = there.engine, "mounts-itself"
    context.step(f"nat-mount: {name}")
    log = context.directory / f"{name}.log"
    examples = f"--volume={ROOT / 'examples' / 'in-container'}:/examples:ro"
    command = engine.command(
        *("run", "--rm", "--name", name, *MOUNTING, examples, IMAGE),
        *("/examples/mount-and-run", url, DIRECTORY, "sleep", "86400"),
    )
    with daemon(command, log) as process, engine.stopped_at_the_end(name):
        wait_until(
            lambda: DIRECTORY in log.read_text(errors="replace"),
            "its mount", process=process, log=log,
        )  # fmt: skip
        below = descendants(engine.pid_of(name))
        workers = tuple(pid for pid in below if processes.name_of(pid) == "pyscsi-worker")
        yield _file_in(engine, name), workers


@contextlib.contextmanager
def _bound(
    context: Context, engine: BridgedDocker, url: str
) -> Iterator[tuple[Path, tuple[int, ...]]]:
    name, directory = "bound", engine.volumes / "bound"
    with engine.host.entered(), mounted(context, url, name, directory) as volume:
        bind = f"--volume={directory}:{DIRECTORY}"
        engine.docker("run", "--detach", "--init", "--name", name, bind, IMAGE, "sleep", "86400")
        with engine.stopped_at_the_end(name):
            yield _file_in(engine, name), (volume["worker_pid"],)
