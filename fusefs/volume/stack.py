# SPDX-License-Identifier: Apache-2.0
"""From a LUN to a directory, in one function; and each of its steps with what takes it back.

:func:`compose` is the product in one sentence. What goes wrong, or is cancelled, between two of its
words is taken back in reverse by the AsyncExitStack that every step registers with; only when the
last word is said is the stack let go, and from then on the volume belongs to the kernel, to its
worker, and to the state file that tells the next command where to look (volume/teardown.py).

It knows neither how a step is done (that is the host's and the worker's), nor who asked for it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.lowlevel

from fusefs.errors import (
    BlankNotFormatted,
    CallFailed,
    FilesystemMismatch,
    UnformattedReadOnly,
)
from fusefs.fuse import RequestSlots
from fusefs.host import FormatMark, LoopDevice
from fusefs.process.messages import StartDocument
from fusefs.process.private_mount import mount_here
from fusefs.volume import elsewhere, formatting
from fusefs.volume.hostcalls import host_call, shielded
from fusefs.volume.paths import make_private_directory
from fusefs.volume.pieces import FOREIGN_LOOPS, Pieces, loop_to_json, make_place
from fusefs.volume.pins import witness_of
from fusefs.volume.state import Bind, VolumeState
from pyscsi_init.secret import Chap

log = logging.getLogger("fusefs.volume")
T = TypeVar("T")

MOUNTED_UNASKED = ("ext4", "xfs", "btrfs", "ext3", "ext2")
"""Where no filesystem is named, the content of the LUN chooses one, and with it the code of the
kernel that reads what may have been crafted. All others, old and rarely looked at, have to be
named."""

ATTACH_DEADLINE_S = 30.0
"""From the first SYN to a file that can be opened: whoever attaches is there and waits."""

ProgressCallback = Callable[[str], None]
Pin = Callable[[VolumeState, str], None]
"""Called when all is there, with the witness of the filesystem that was found or made. Blocks."""
Admission = Callable[[VolumeState], AbstractAsyncContextManager[None]]
"""Entered when the identity is known; refuses by raising, holds its lock until the exit."""


async def compose(volume: Composition) -> VolumeState:
    """Log in, publish the file, attach the loop, check or make the filesystem, mount, bind.

    Raises:
        VolumeError, IscsiError: a step failed; nothing of the volume is left.

    Cancellation: nothing of the volume is left when it is raised.
    """
    async with AsyncExitStack() as undo:
        await volume.log_in_and_publish_the_file(undo)
        await volume.refuse_a_second_attachment()
        device = await volume.attach_the_loop(undo)
        if volume.mountpoint:
            fstype = await volume.check_or_make_the_filesystem(device)
            await volume.mount(device, fstype, undo)
            for bind in volume.binds:
                await volume.bind(bind, undo)
        else:
            await volume.forget_a_format(device)
        await volume.come_to_rest()
        undo.pop_all()
    return volume.state


class Composition(Pieces):
    """The steps of :func:`compose` for one volume.

    What takes a step back is registered before the step: it may have had its effect although it
    failed, and each way back looks for what there is.
    """

    def __init__(
        self,
        pieces: Pieces,
        *,
        chap: Chap | None = None,
        isid: bytes = b"",
        progress: ProgressCallback | None = None,
        state_directory: str = "",
        notes: Path | None = None,
        admission: Admission | None = None,
        pin: Pin | None = None,
        mountpoint: str = "",
        binds: Sequence[Bind] = (),
        brings_up: bool = False,
    ) -> None:
        super().__init__(pieces.host, pieces.paths, pieces.state, pieces.holder, pieces.held)
        self.mountpoint = mountpoint
        self.binds = tuple(binds)
        self._chap = chap
        self._isid = isid
        self._progress = progress or (lambda _step: None)
        self._state_directory = state_directory
        self._notes = formatting.Notes(notes)
        self._admission = admission
        self._pin = pin
        self._content = ""
        self._is_new = False
        self._brings_up = brings_up

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """A call of the host, in a thread. While the volume comes up nothing of it is worth saving:
        a cancelled caller pulls the rug from under a call that does not end."""
        abort = self.abort if self._brings_up else None
        return await host_call(functools.partial(function, *args, **kwargs), abort)

    # -- log in, publish the file -----------------------------------------------------------------

    async def log_in_and_publish_the_file(self, undo: AsyncExitStack) -> None:
        """The worker does both, and is the one thing to take back for both. What must outlive it,
        the descriptor and the request slots, is made here and given to the holder."""
        undo.push_async_callback(shielded, self.undo_files)
        await self.call(make_private_directory, self.paths.directory)
        await self.save(phase="logging-in")
        await self.call(self.host.prepare_directory, str(self.paths.fuse))
        undo.push_async_callback(shielded, functools.partial(self.undo, "FUSE", self.unmount_fuse))
        await self.call(self.host.make_private_unbindable, str(self.paths.fuse))
        undo.push_async_callback(shielded, self.end_worker)
        with ExitStack() as ours:
            descriptors = {"fuse": await self.call(self.host.open_fuse)}
            ours.callback(os.close, descriptors["fuse"])
            if self.state.spec.fuse_channel == "native":
                slots = RequestSlots.create()
                ours.callback(slots.close)
                descriptors["slots"] = slots.fd
            worker = await self.holder.start(self._start_document(), descriptors, self.paths.log)
            undo.callback(worker.close)
            await self.save(worker=worker.identity)
            facts = await worker.wait_ready(ATTACH_DEADLINE_S, self._progress)
            # The worker may stand in another mount namespace than the loop device's file has to.
            directory = str(self.paths.fuse)
            await self.call(mount_here, self.host, descriptors["fuse"], directory, self.state.name)
        await self.save(facts=facts)

    def _start_document(self) -> StartDocument:
        return StartDocument(
            spec=self.state.spec,
            chap=self._chap,
            isid=self._isid,
            directory=str(self.paths.directory),
            fuse_directory=str(self.paths.fuse),
            state_directory=self._state_directory,
            deadline_s=ATTACH_DEADLINE_S,
        )

    async def undo_files(self) -> None:
        """The last thing to go: while the state file is there, somebody can clean up after us."""
        try:
            await self.remove_files()
        except OSError as error:
            log.warning("volume %s: its directory stays: %s", self.state.name, error)

    async def refuse_a_second_attachment(self) -> None:
        """One node never has one LUN twice, unless nobody writes; only its identity tells."""
        if self._admission is None:
            return
        async with self._admission(self.state):
            await self.save(phase="attaching")

    # -- attach the loop --------------------------------------------------------------------------

    async def attach_the_loop(self, undo: AsyncExitStack) -> LoopDevice:
        """A block device over the file, with the LUN's own block size."""
        self._progress("attach the loop device")
        directory = str(self.paths.fuse)
        if foreign := await self.call(self.loops_of_that_path):
            others = [loop_to_json(each) for each in foreign]
            await self.save(facts={**self.state.facts, FOREIGN_LOOPS: others})
        undo.push_async_callback(
            shielded, functools.partial(self.undo, "loop device", self.detach_loop)
        )
        try:
            device = await self.call(
                self.host.loop_attach,
                str(self.paths.file),
                block_size=int(self.state.facts["block_size"]),
                read_only=self.state.spec.read_only,
                # Killed as a whole nobody is left to detach it.
                held=bool(self.mountpoint) and self.host.ends_as_a_whole(),
            )
        except CallFailed as error:
            if error.errno == errno.ENOENT:
                # Whoever took it away may be found by what is mounted instead.
                there = [each for each in self.host.mounts() if each.mountpoint == directory]
                log.warning("volume %s: mounted at %s: %s", self.state.name, directory, there)
            raise
        attached = self.state.with_(loop=loop_to_json(device))
        await self.call(elsewhere.write_record, self.paths, attached)
        await self.save(loop=attached.loop)
        return device

    # -- check or make the filesystem -------------------------------------------------------------

    async def check_or_make_the_filesystem(self, device: LoopDevice) -> str:
        """See what is there; check it, or make one where nothing is and that was asked for."""
        spec = self.state.spec
        self._progress("look for a filesystem")
        probe = await self.call(self.host.probe, device.path)
        if probe.empty or probe.unfinished:
            cut_off = probe.mark if probe.unfinished else None
            return await self._make_the_filesystem(device, cut_off)
        wanted = spec.fstype or f"one of {', '.join(MOUNTED_UNASKED)}, as it names no other"
        if not probe.is_filesystem or not _is_wanted(probe.fstype, spec.fstype):
            raise FilesystemMismatch(
                device.path, found=probe.found or "something unknown", wanted=wanted
            )
        if not spec.read_only:
            if probe.mark is not None:
                # mkfs had ended, and whoever ran it was cut off before anything else.
                await self._drop_the_mark(device, probe.mark)
                self._is_new = probe.uuid == probe.mark.uuid
            await self.call(self._notes.remove_of, self.state)
        if spec.read_only and probe.log_pending:
            log.warning(
                "volume %s: its %s was not unmounted in order, and a read-only volume replays no "
                "journal: what was written last is not seen; a read-write mount replays it",
                spec.name,
                probe.fstype,
            )
        if not spec.read_only and spec.fsck != "never":
            self._progress(f"check the {probe.fstype} filesystem")
            full = spec.fsck == "force"
            checked = await self.call(self.host.fsck, device.path, probe.fstype, full=full)
            if full and not checked.ran:
                log.warning("volume %s: it was not checked in full: %s", spec.name, checked.note)
        self._content = witness_of(probe.fstype, probe.uuid)
        return probe.fstype

    async def _make_the_filesystem(self, device: LoopDevice, cut_off: FormatMark | None) -> str:
        """Make it where nothing is, or where mkfs was ``cut_off``; formatting.py says when that may
        be, and what comes in which order."""
        spec = self.state.spec
        if spec.read_only:
            raise UnformattedReadOnly(device.path)
        if not spec.format_if_blank:
            raise BlankNotFormatted(device.path)
        fstype = spec.filesystem_to_make
        mark = formatting.new_mark(fstype)
        if cut_off is None:
            await self.call(self.host.assert_formattable, device.path)
        else:
            await self.call(self._notes.check_may_wipe, device.path, cut_off, self.state)
            mark = replace(mark, uuid=cut_off.uuid)
        # Before the wipe: who is killed in it finds its key registered, which proves nothing.
        await self.call(self._notes.write, mark, self.state)
        if cut_off is not None:
            self._progress("wipe what mkfs has left that was cut off")
            log.info(
                "volume %s: mkfs was cut off on its LUN (%s, by node %s); it is made anew",
                spec.name,
                cut_off.fstype,
                cut_off.node or "unknown",
            )
            await self.call(self.host.wipe_unfinished, device.path, cut_off)
        self._progress(f"make an {fstype} filesystem")
        await self.save(phase="formatting")
        await self.call(self.host.write_format_mark, device.path, mark)
        await self.call(self.host.mkfs, device.path, fstype, uuid=mark.uuid)
        await self._drop_the_mark(device, mark)
        made = await self.call(self.host.probe, device.path)
        self._content = witness_of(made.fstype, made.uuid)
        self._is_new = True
        return fstype

    async def _drop_the_mark(self, device: LoopDevice, mark: FormatMark) -> None:
        await self.call(self.host.remove_format_mark, device.path, mark)
        await self.call(self._notes.remove, mark)

    async def forget_a_format(self, device: LoopDevice) -> None:
        """Whoever gets the device as it is may write to it, and leave most of a mark."""
        spec = self.state.spec
        if spec.read_only:
            return
        mark = await self.call(self.host.read_format_mark, device.path)
        if mark is None:
            await self.call(self._notes.remove_of, self.state)
            return
        if await self.call(self._notes.may_clear, mark, self.state):
            await self._drop_the_mark(device, mark)
            return
        log.warning(
            "volume %s: its LUN has the mark of an unfinished %s (by node %s), which stays there: "
            "mkfs may still be running. Write zeros over the LUN before it is used",
            spec.name,
            mark.fstype,
            mark.node or "unknown",
        )

    # -- mount, bind ------------------------------------------------------------------------------

    async def mount(self, device: LoopDevice, fstype: str, undo: AsyncExitStack) -> None:
        """Mount the filesystem."""
        self._progress(f"mount on {self.mountpoint}")
        await self.save(phase="mounting", mountpoint=self.mountpoint)
        undo.push_async_callback(shielded, functools.partial(self._undo_mount, self.mountpoint))
        await self.call(
            self.host.mount,
            device.path,
            self.mountpoint,
            fstype,
            options=self.state.spec.mount_options,
            read_only=self.state.spec.read_only,
        )
        if self.host.ends_as_a_whole():
            # From now on it goes with its mount.
            await self.call(self.host.loop_detach, device, lazy=True)
        if self._is_new:
            await self.call(_leave_it_empty, self.mountpoint)

    async def bind(self, bind: Bind, undo: AsyncExitStack) -> None:
        """Bind the mounted filesystem to another directory, or the loop device onto a file."""
        self._progress(f"bind to {bind.directory}")
        others = tuple(each for each in self.state.binds if each.directory != bind.directory)
        await self.save(binds=(*others, replace(bind, pending=True)))
        undo.push_async_callback(shielded, functools.partial(self.remove_made, bind))
        if bind.made:
            await self.call(make_place, bind)
        undo.push_async_callback(shielded, functools.partial(self._undo_mount, bind.directory))
        await self.call(
            self.host.bind,
            await self.call(self.source_of, bind),
            bind.directory,
            read_only=bind.read_only or self.state.spec.read_only,
        )
        await self.save(binds=(*others, bind))

    async def _undo_mount(self, directory: str) -> None:
        await self.undo(f"mount on {directory}", functools.partial(self.unmount, directory))

    async def come_to_rest(self) -> None:
        """From here on the volume stays, whatever becomes of us."""
        await anyio.lowlevel.checkpoint()
        with anyio.CancelScope(shield=True):
            if self._pin is not None:
                await host_call(functools.partial(self._pin, self.state, self._content))
            await self.save(phase="mounted" if self.mountpoint else "attached")


def _is_wanted(found: str, fstype: str) -> bool:
    return found == fstype if fstype else found in MOUNTED_UNASKED


def _leave_it_empty(mountpoint: str) -> None:
    """A new ext4 has a directory lost+found, which e2fsck makes again when it needs it. Container
    engines fill a volume from an image only if it is empty, and so want databases their
    directory. Blocks."""
    with contextlib.suppress(OSError):
        Path(mountpoint, "lost+found").rmdir()
