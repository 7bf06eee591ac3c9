# SPDX-License-Identifier: Apache-2.0
"""The demo from end to end, as ``make demo`` runs it, and ended in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import processes, requirements
from tests.support.source import ROOT

pytestmark = pytest.mark.root

TIMEOUT = 100


def start(directory: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "fusefs.cli", "demo", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=processes.environment(TMPDIR=str(directory), **variables),
    )


def run(directory: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    process = start(directory, *arguments, **variables)
    try:
        out, _ = process.communicate(timeout=TIMEOUT)
    finally:
        process.kill()
        process.wait()
    return process.returncode, out


def needs(*programs: str) -> None:
    for program in ("mkfs.xfs", "mkfs.ext4", "busybox", *programs):
        requirements.require(program)


def check_story(out: str) -> None:
    for text in (
        "This file was on the LUN before it was mounted.",
        "writing is refused, as it must be",
        "the target has only:",
        "were read from the target on the new session",
        "the target has no session",
        "nothing is left: no mount, loop device, FUSE connection, session or process",
    ):
        assert text in out, out
    assert out.count("data: OK") == 3, out


@pytest.mark.parametrize(
    "target", ["python", pytest.param("tgt", marks=pytest.mark.tgt)]
)  # the guards of the test run look for what is left behind
@pytest.mark.parametrize("containers", ["docker", "namespaces"])
def test_demo(tmp_path: Path, target: str, containers: str) -> None:
    needs(*(("dockerd", "docker") if containers == "docker" else ()))
    status, out = run(tmp_path, "--target", target, "--containers", containers)
    assert status == 0, out
    assert out.splitlines()[-1].startswith("demo: ok"), out
    check_story(out)
    assert ("docker inspect" in out) is (containers == "docker")
    assert ("Docker Engine" in out) is (containers == "docker")
    assert ("LUN 0 of tgt is its controller" in out) is (target == "tgt")
    assert os.listdir(tmp_path) == []


LINES = (
    "start the target",
    "| publish the file",
    "make an xfs filesystem",
    "find something that runs containers",
    "container writer",
    "unmount work",
    "container second",
    "give everything back",
)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.mark.parametrize(
    ("line", "number"),
    [
        # Each line, and each signal early and late; the other half takes as long again.
        pytest.param(
            line,
            number,
            id=f"{line}-{number.name}",
            marks=() if (place // 2 + place + which) % 2 else pytest.mark.soak,
        )
        for place, line in enumerate(LINES)
        for which, number in enumerate(SIGNALS)
    ],
)
def test_ended_in_the_middle(tmp_path: Path, number: signal.Signals, line: str) -> None:
    """A signal when a line of the story appears: nothing stays, and the exit status says it."""
    needs("dockerd", "docker")
    process = start(tmp_path)
    assert process.stdout is not None
    seen = []
    try:
        for text in process.stdout:
            seen.append(text)
            if line in text:
                process.send_signal(number)
                break
        seen.append(process.stdout.read())
        process.wait(TIMEOUT)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    out = "".join(seen)
    assert process.returncode == 128 + number, out
    assert "demo: ok" not in out
    assert "left behind" not in out
    assert out.count("what was begun has been undone") == 1, out
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("containers", ["docker", "namespaces"])
def test_a_target_that_dies_fails_the_demo_and_nothing_stays(
    tmp_path: Path, containers: str
) -> None:
    needs(*(("dockerd", "docker") if containers == "docker" else ()))
    process = start(tmp_path, "--containers", containers)
    assert process.stdout is not None
    seen = []
    try:
        for text in process.stdout:
            seen.append(text)
            if "container writer" in text:
                (target,) = [
                    pid
                    for pid in processes.children(process.pid)
                    if "pyscsi_init.testing" in processes.command_line(pid)
                ]
                os.kill(target, signal.SIGKILL)
                break
        seen.append(process.stdout.read())
        process.wait(TIMEOUT)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    out = "".join(seen)
    assert process.returncode not in (0, None), out
    assert "demo: ok" not in out
    assert "on the way back: volume work" in out, out
    assert "left behind" not in out
    assert os.listdir(tmp_path) == []


def test_a_demo_without_containers_fails_and_says_why(tmp_path: Path) -> None:
    needs()
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "dockerd").write_text("#!/bin/sh\necho no engine today >&2\nexit 1\n")
    (programs / "dockerd").chmod(0o755)
    status, out = run(
        tmp_path, "--containers", "docker", PATH=f"{programs}:{os.environ['PATH']}",
        DOCKER_HOST="unix:///nowhere",
    )  # fmt: skip
    assert status != 0
    last = out.splitlines()[-1]
    assert last.startswith("pyscsi-init: nothing here runs containers"), out
    assert "no engine today" in last
    shutil.rmtree(programs)
    assert os.listdir(tmp_path) == []
