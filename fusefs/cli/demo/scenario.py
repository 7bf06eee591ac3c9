# SPDX-License-Identifier: Apache-2.0
"""The scenario that the product exists for, from a target to files in containers and back.

Everything is acquired in one order and given back in the reverse one, by one exit stack, whatever
happens in between. What the story claims is checked at the place where it is claimed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.lowlevel
import anyio.to_thread

from fusefs.cli.demo.containers import MOUNT_POINT, Engine, Running
from fusefs.cli.demo.docker import short_directory
from fusefs.cli.demo.engines import candidates
from fusefs.cli.demo.servers import SERVERS, TARGET_NAME, Server
from fusefs.cli.demo.story import DemoFailed, Story, require
from fusefs.errors import NotAllowed, VolumeError
from fusefs.host import Host
from fusefs.spec import VolumeSpec
from fusefs.volume.hostcalls import shielded
from fusefs.volume.manager import VolumeManager
from fusefs.volume.status import VolumeStatus
from pyscsi_init import discover
from pyscsi_init.errors import IscsiError

EXT4_BYTES = 64 << 20
XFS_BYTES = 320 << 20
"""mkfs.xfs refuses less than 300 MiB."""
GREETING = "This file was on the LUN before it was mounted."
DATA_BYTES = 8 << 20
CLEANUP_SECONDS = 90.0
ON_DISCONNECT = "fail-after=5"
"""Should the target of the demo die, nothing may wait for it for ever."""

READ_IT = f"""
cat {MOUNT_POINT}/README
cd {MOUNT_POINT} && sha256sum -c SHA256SUMS
if touch {MOUNT_POINT}/new 2>/dev/null; then echo 'a read-only volume was written to'; exit 1; fi
echo 'writing is refused, as it must be'
"""

WRITE_IT = f"""
dd if=/dev/urandom of={MOUNT_POINT}/data bs=1M count={DATA_BYTES >> 20} 2>/dev/null
cd {MOUNT_POINT} && sha256sum data > SHA256SUMS
echo "written by $(hostname)" > note
sync
sha256sum -c SHA256SUMS
ls -l {MOUNT_POINT}
"""

READ_AGAIN = f"""
cat {MOUNT_POINT}/note
cd {MOUNT_POINT} && sha256sum -c SHA256SUMS
sha256sum data
"""


class Scenario:
    """One run of the demo in a directory of its own."""

    def __init__(
        self, story: Story, host: Host, directory: Path, *, target: str, containers: str
    ) -> None:
        self._story = story
        self._host = host
        self._directory = directory
        self._images = directory / "ext4.img", directory / "xfs.img"
        self._server: Server = SERVERS[target](directory, self._images)
        self._choice = containers
        self._manager = VolumeManager(host, directory / "run", directory / "state")
        self.directories = list(dict.fromkeys((directory, short_directory(directory))))
        """Everything that was made lies in these."""
        self.problems: list[str] = []
        """What went wrong while everything was given back."""
        self.fuse_connections: set[int] = set()

    async def run(self) -> None:
        """The whole story.

        Raises:
            DemoFailed, VolumeError, IscsiError: a step failed; what was begun has been undone.
        """
        async with AsyncExitStack() as undo:
            await self._start_target(undo)
            self._give_back(undo, "volumes", self._take_volumes_down)
            await self._mount_both()
            engine = await self._start_engine(undo)
            reader, writer = await self._first_containers(engine)
            await self._show_binds(reader, writer)
            digest = await self._remove_first_containers(reader, writer)
            first = await self._last_user_gone()
            await self._new_session(engine, first, digest)
            with self._story.step("give everything back, in reverse order"):
                await undo.aclose()
                await anyio.lowlevel.checkpoint()  # a signal meanwhile is heard here

    # -- giving back ------------------------------------------------------------------------------

    def _give_back(
        self, undo: AsyncExitStack, what: str, step: Callable[[], Awaitable[object]]
    ) -> None:
        """Register a step of the way back, which goes on with the others if it fails."""

        async def attempt() -> None:
            try:
                with anyio.fail_after(CLEANUP_SECONDS):
                    await step()
            except TimeoutError:
                self.problems.append(f"{what}: not over within {CLEANUP_SECONDS:g} s")
            except (VolumeError, IscsiError, OSError) as error:
                self.problems.append(f"{what}: {error}")

        undo.push_async_callback(shielded, attempt)

    async def _take_volumes_down(self) -> None:
        for volume in await self._manager.status():
            try:
                await self._manager.umount(volume.name)
            except (VolumeError, IscsiError) as error:
                self.problems.append(f"volume {volume.name}: {error}")
                report = await self._manager.umount(volume.name, force=True)
                self.problems += report.problems
        await self._server.wait_for_sessions(0)

    # -- the steps --------------------------------------------------------------------------------

    async def _start_target(self, undo: AsyncExitStack) -> None:
        with self._story.step("make two sparse disk images: ext4 with content, and a blank one"):
            await anyio.to_thread.run_sync(self._make_images)
        server = self._server
        with self._story.step(f"start {server.kind}"):
            self._give_back(undo, "target", server.stop)
            await server.start()
            if server.note:
                self._story.say(server.note)
            for found in await discover(
                server.portal, initiator_name="iqn.2026-11.io.pyscsi-init:demo-discovery"
            ):
                portals = ", ".join(str(portal) for portal in found.portals)
                self._story.say(f"SendTargets: {found.name} at {portals}")
                require(found.name == TARGET_NAME, "the portal shows another target")
            await server.wait_for_sessions(0)

    def _make_images(self) -> None:
        content = self._directory / "content"
        content.mkdir()
        (content / "README").write_text(GREETING + "\n")
        data = bytes(range(256)) * 4096
        (content / "data").write_bytes(data)
        (content / "SHA256SUMS").write_text(f"{hashlib.sha256(data).hexdigest()}  data\n")
        for image, size in zip(self._images, (EXT4_BYTES, XFS_BYTES), strict=True):
            with image.open("wb") as file:
                file.truncate(size)
        self._host.mkfs(str(self._images[0]), "ext4", options=("-d", str(content)))

    async def _mount(self, name: str, index: int, what: str, **options: object) -> VolumeStatus:
        with self._story.step(f"mount LUN {self._server.luns[index]} {what}"):
            directory = self._directory / name
            directory.mkdir(exist_ok=True)
            values = {
                "name": name,
                "url": self._server.url(index),
                "on_disconnect": ON_DISCONNECT,
                **options,
            }
            volume = await self._manager.mount(
                VolumeSpec.from_json(values), directory, progress=self._story.say
            )
            require(volume.state == "mounted", f"volume {name} is {volume.state}")
            for entry in self._host.mounts():
                if entry.fstype.startswith("fuse") and name in entry.mountpoint:
                    self.fuse_connections.add(entry.minor)
            session = volume.session
            self._story.say(
                f"session ISID {session['isid']} TSIH {session['tsih']} -> {volume.file} -> "
                f"{volume.loop} -> {volume.fstype} on {volume.mountpoint}"
            )
            return volume

    async def _mount_both(self) -> None:
        await self._mount("library", 0, "(ext4, with content) read-only", read_only=True)
        await self._mount(
            "work", 1, "(blank) as xfs, formatted first", fstype="xfs", format_if_blank=True
        )
        for text in await self._server.wait_for_sessions(2):
            self._story.say(f"the target has: {text}")

    async def _start_engine(self, undo: AsyncExitStack) -> Engine:
        engines = await anyio.to_thread.run_sync(
            functools.partial(candidates, self._choice, self._directory, self._host)
        )
        with self._story.step("find something that runs containers"):
            reasons = []
            for engine in engines:
                self._give_back(undo, "containers", engine.close)
                try:
                    await engine.start()
                except (DemoFailed, NotAllowed) as error:
                    reasons.append(str(error))
                    self._story.say(f"not {engine.kind}: {error}")
                    await engine.close()
                    continue
                self._story.say(f"the containers of this demo run in {engine.kind}")
                return engine
            raise DemoFailed(f"nothing here runs containers: {'; '.join(reasons)}")

    async def _container(
        self, engine: Engine, name: str, volume: str, script: str, *, read_only: bool = False
    ) -> Running:
        rights = "read-only" if read_only else "read-write"
        with self._story.step(f"container {name}: {volume} {rights} at {MOUNT_POINT}"):
            container = await engine.run(
                name, script, self._directory / volume, read_only=read_only
            )
            self._story.say(container.output)
            return container

    async def _first_containers(self, engine: Engine) -> tuple[Running, Running]:
        reader = await self._container(engine, "reader", "library", READ_IT, read_only=True)
        require(GREETING in reader.output, "the reader did not see the content of the LUN")
        require("data: OK" in reader.output, "the reader saw other data than was prepared")
        writer = await self._container(engine, "writer", "work", WRITE_IT)
        require("data: OK" in writer.output, "the writer did not read back what it wrote")
        return reader, writer

    async def _show_binds(self, *containers: Running) -> None:
        with self._story.step("look at the mount tables, from outside and inside"):
            for entry in self._host.mounts():
                if entry.mountpoint in (f"{self._directory}/library", f"{self._directory}/work"):
                    self._story.say(
                        f"host: {entry.source} on {entry.mountpoint} type {entry.fstype} "
                        f"({','.join(entry.options)})"
                    )
            for container in containers:
                mounts = container.mounts()
                require(mounts, f"container {container.name} has nothing at {MOUNT_POINT}")
                for entry in mounts:
                    self._story.say(
                        f"{container.name}: {entry.source} on {entry.mountpoint} type "
                        f"{entry.fstype} ({','.join(entry.options)})"
                    )
                text = await container.inspect()
                require(not text or MOUNT_POINT in text, "docker inspect does not show the bind")
                self._story.say(text)

    async def _remove_first_containers(self, reader: Running, writer: Running) -> str:
        with self._story.step("delete both containers; the files stay on the LUN"):
            await reader.remove()
            await writer.remove()
            data = self._directory / "work/data"
            digest = await anyio.to_thread.run_sync(_digest, data)
            self._story.say(f"on the host: {digest}  {data}")
            return digest

    async def _last_user_gone(self) -> VolumeStatus:
        with self._story.step("unmount work: its last user is gone, so its session is logged out"):
            (before,) = [one for one in await self._manager.status() if one.name == "work"]
            report = await self._manager.umount("work")
            require(report.clean, f"unmounting left: {', '.join(report.problems)}")
            for text in await self._server.wait_for_sessions(1):
                self._story.say(f"the target has only: {text}")
            return before

    async def _new_session(self, engine: Engine, first: VolumeStatus, digest: str) -> None:
        again = await self._mount("work", 1, "(xfs) again, on a new session", fstype="xfs")
        old, new = first.session, again.session
        require(
            (old["isid"], old["tsih"]) != (new["isid"], new["tsih"]), "the session is the old one"
        )
        container = await self._container(engine, "second", "work", READ_AGAIN)
        require(digest in container.output, "the data did not survive")
        require("written by" in container.output, "the note did not survive")
        (volume,) = [one for one in await self._manager.status() if one.name == "work"]
        read = volume.io.get("bytes_read", 0)
        require(read >= DATA_BYTES, f"only {read} bytes came over the new session")
        self._story.say(f"{read} bytes were read from the target on the new session")
        with self._story.step("delete it, unmount both volumes: no session is left"):
            await container.remove()
            for name in ("work", "library"):
                await self._manager.umount(name)
            await self._server.wait_for_sessions(0)
            self._story.say("the target has no session")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
