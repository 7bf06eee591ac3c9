# SPDX-License-Identifier: Apache-2.0
"""Which Mount counts as another one's repetition: the driver by itself, with real notes.

The volumes count and are attached nowhere; test_endpoints.py has the driver with real ones.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fusefs.docker.callers import Callers, process_of
from fusefs.docker.driver import Driver
from fusefs.errors import NoSuchVolume, VolumeError
from tests.fusefs.docker.test_callers import Start, end, start
from tests.support.logs import ExpectLogs

__all__ = ["start"]
pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

US = process_of(os.getpid())
REQUEST = {"Name": "data", "ID": "x"}


class Volumes:
    """Counts users."""

    def __init__(self) -> None:
        self.users: Counter[str] = Counter()
        self.fault: Exception | None = None

    async def use(self, _name: str, user: str) -> Path:
        self.users[user] += 1
        return Path("/mnt")

    async def release(self, _name: str, user: str) -> None:
        self.users[user] -= 1

    async def get(self, _name: str) -> Any:
        if self.fault is not None:
            raise self.fault
        return SimpleNamespace(users=self.users, problem="")


class Scene:
    """A Mount that a process of ours took, and died before its answer was noted."""

    def __init__(self, directory: Path, start: Start) -> None:
        self.volumes: Any = Volumes()
        self.callers = Callers(directory)
        self.driver = Driver(self.volumes, self.callers)
        self.volumes.users["x"] = 1
        self.callers.begin("data", "x", US)
        file, plugin = directory / "data.json", start("plugin")
        values = json.loads(file.read_text())
        values["calls"][0]["plugin"] = process_of(plugin.pid)
        file.write_text(json.dumps(values))
        end(plugin)

    @property
    def notes(self) -> list[str]:
        """Who took the Mounts that are noted."""
        return ["us" if call.plugin == US else "dead" for call in self.callers.calls("data")]


async def test_a_mount_that_is_asked_again_counts_once(tmp_path: Path, start: Start) -> None:
    scene = Scene(tmp_path, start)
    await scene.driver.mount(REQUEST, US)
    assert (scene.volumes.users["x"], scene.notes) == (1, ["us"])


async def test_when_nobody_asks_again_a_mount_with_the_same_id_counts(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`docker cp` of the running container, long after: its Unmount must leave the container's."""
    scene = Scene(tmp_path, start)
    monkeypatch.setattr("fusefs.docker.driver.ASK_AGAIN_SECONDS", 0.0)
    await scene.driver.mount(REQUEST, US)
    assert (scene.volumes.users["x"], scene.notes) == (2, ["dead", "us"])
    await scene.driver.unmount(REQUEST, US)
    assert (scene.volumes.users["x"], scene.notes) == (1, ["dead"])


@pytest.mark.parametrize(
    "fault", [VolumeError("damaged"), OSError(24, "damaged"), ValueError("damaged")]
)
async def test_get_fails_only_for_what_is_not_known(
    tmp_path: Path, start: Start, fault: Exception, expect_logs: ExpectLogs
) -> None:
    """Else dockerd believed that there is none, and made a local one of the same name."""
    if isinstance(fault, ValueError):
        expect_logs("internal error")
    scene = Scene(tmp_path, start)
    scene.volumes.fault = fault
    answer = await scene.driver.get({"Name": "data"}, US)
    assert (answer["Err"], answer["Volume"]["Name"]) == ("", "data")
    assert "damaged" in answer["Volume"]["Status"]["last_error"]
    scene.volumes.fault = NoSuchVolume("data")
    with pytest.raises(NoSuchVolume):
        await scene.driver.get({"Name": "data"}, US)


async def test_a_mount_that_fails_after_it_was_counted_leaves_no_count(
    tmp_path: Path, start: Start
) -> None:
    scene = Scene(tmp_path, start)
    scene.volumes.fault = VolumeError("its definition cannot be used")
    with pytest.raises(VolumeError, match="cannot be used"):
        await scene.driver.mount(REQUEST, US)
    assert (scene.volumes.users["x"], scene.notes) == (1, ["dead"])
