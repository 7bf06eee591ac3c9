# SPDX-License-Identifier: Apache-2.0
"""Leaving the control group of the starter, in a hierarchy of the test's own below a real one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fusefs.host import mountinfo, process_group
from fusefs.host.records import MountEntry
from tests.support.requirements import KERNEL_LACKS

pytestmark = pytest.mark.root

Starter = tuple[subprocess.Popen[bytes], MountEntry]


def hierarchy() -> MountEntry:
    """One where this process is in nobody's group, and may make some."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for entry in mountinfo.read():
            kind = "cgroup2" if entry.fstype == "cgroup2" else ""
            options = entry.super_options if entry.fstype == "cgroup" else ()
            fits = (kind == "cgroup2" and not names) or names in options
            # cpuset wants processors, and memory belongs to who runs the tests.
            if path == "/" and fits and "memory" not in names and "cpuset" not in names:
                return entry
    pytest.skip(f"{KERNEL_LACKS} a control group hierarchy to make groups in")


@pytest.fixture
def starter(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[subprocess.Popen[bytes], MountEntry]]:
    """A process in a group of a front door's, and the hierarchy as it should see it."""
    monkeypatch.delenv(process_group.VARIABLE)
    monkeypatch.setattr(process_group, "command", list)
    entry = hierarchy()
    own = Path(entry.mountpoint) / f"pyscsi-init-test-{os.getpid()}"
    door = own / "front-door"
    try:
        door.mkdir(parents=True)
    except OSError as fault:
        pytest.skip(f"{KERNEL_LACKS} groups in {entry.mountpoint}: {fault}")
    process = subprocess.Popen(["sleep", "100"])
    (door / "cgroup.procs").write_text(str(process.pid))
    yield process, replace(entry, mountpoint=str(own))
    process.kill()
    process.wait()
    for group in (own / process_group.GROUP, door, own):
        if group.exists():
            group.rmdir()


def procs(group: Path) -> list[int]:
    return [int(line) for line in (group / "cgroup.procs").read_text().split()]


def test_a_process_gets_a_group_of_its_own(
    starter: Starter,
) -> None:
    process, entry = starter
    group = Path(entry.mountpoint) / process_group.GROUP
    assert process_group.leave(process.pid, [entry]) == []
    assert procs(group) == [process.pid]
    process_group.remove([entry])
    assert group.exists(), "somebody is in it"
    process.kill()
    process.wait()
    process_group.remove([entry])
    assert not group.exists()


def test_what_cannot_be_done_is_said_and_nothing_more(
    starter: Starter,
) -> None:
    process, entry = starter
    (note,) = process_group.leave(process.pid, [replace(entry, mountpoint="/proc/nowhere")])
    assert "front-door" in note
    assert "No such file" in note


def test_it_stays_where_that_is_wanted(starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    process, entry = starter
    monkeypatch.setenv(process_group.VARIABLE, "off")
    assert process_group.leave(process.pid, [entry]) == []
    assert not (Path(entry.mountpoint) / process_group.GROUP).exists()
