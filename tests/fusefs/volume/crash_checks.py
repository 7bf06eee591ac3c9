# SPDX-License-Identifier: Apache-2.0
"""What has to be after a crash, looked at by a front door that starts anew."""

from __future__ import annotations

import os
import time
from pathlib import Path

import anyio

from fusefs.host import LinuxHost
from fusefs.spec import VolumeSpec
from fusefs.volume.known import KnownVolume, KnownVolumes
from fusefs.volume.manager import VolumeManager
from tests.fusefs.volume.crashing import MESSAGE, of_case

STAYS = ("locks/", "steps", "initiatorname", "run/holder")
"""What no volume leaves, but the node."""
PATIENCE_S = 30.0


def check(base: str, url: str, case: str, operation: str, whom: str) -> None:
    """Restore, look, use, release, remove; then nothing may be left.

    ``whom`` is who was killed: ``all``, ``command``, or ``nobody``.
    """
    if whom == "all":
        assert of_case(case) == []
    after = _After(Path(base), url, operation, whom)
    try:
        anyio.run(after.look)
        assert_gone(Path(base))
        files = [str(p.relative_to(base)) for p in Path(base).rglob("*") if not p.is_dir()]
        assert [file for file in files if not any(part in file for part in STAYS)] == []
    except BaseException:
        anyio.run(after.end_by_force)
        raise


class _After:
    def __init__(self, base: Path, url: str, operation: str, whom: str) -> None:
        self._base = base
        self._url = url
        self._operation = operation
        self._whom = whom
        self._manager = VolumeManager(LinuxHost(), base / "run", base / "state")
        self._known = KnownVolumes(self._manager)

    async def look(self) -> None:
        report = await self._known.restore()
        assert report.problems == [], report
        assert report.busy == [], report
        volumes = await self._known.list()
        if not volumes:
            assert self._operation == "remove"
            await self._known.define(VolumeSpec(name="data", url=self._url), owner="test")
        elif volumes[0].users:
            assert volumes[0].users == {"one": 1}
            self._assert_there(volumes[0])
        else:
            assert volumes[0].status is None
            await anyio.to_thread.run_sync(assert_gone, self._base)
        path = await self._known.use("data", "next")
        await anyio.to_thread.run_sync(self._read_and_write, path)
        status = (await self._known.get("data")).status
        assert status is not None
        assert status.state == "mounted", status
        await self._known.release("data", "next")
        await self._known.release("data", "one")
        await self._known.remove("data")

    async def end_by_force(self) -> None:
        for volume in await self._manager.status():
            await self._manager.ensure_gone(volume.name, force=True)

    def _read_and_write(self, path: Path) -> None:
        if self._operation in ("release", "publish", "remove"):
            assert (path / "file").read_text() == MESSAGE
        (path / "other").write_text("after the crash")

    def _assert_there(self, volume: KnownVolume) -> None:
        """As a whole: alive and mounted, or, where all were killed, known to be dead."""
        assert volume.status is not None
        if self._whom == "all":
            assert volume.status.state == "failed", volume
            return
        assert volume.status.state == "mounted", volume
        bound = {bind.directory for bind in volume.status.binds}
        for place in (self._base / "bound", self._base / "device"):
            assert place.exists() == (str(place) in bound)


def assert_gone(base: Path) -> None:
    """No mount, loop device or process of a volume, and none of its files."""
    assert str(base) not in Path("/proc/self/mountinfo").read_text()
    deadline = time.monotonic() + PATIENCE_S
    while loops := [d for d in LinuxHost().loop_list() if str(base) in d.backing_file]:
        assert time.monotonic() < deadline, loops
        time.sleep(0.05)
    for directory in ("run/volumes", "run/uses", "state/mounts"):
        there = base / directory
        assert not there.exists() or os.listdir(there) == []
    assert not (base / "bound").exists()
    assert not (base / "device").exists()
