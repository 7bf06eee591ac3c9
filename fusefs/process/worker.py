# SPDX-License-Identifier: Apache-2.0
"""One volume's data path in a process of its own, forked by a zygote.

Theory of operation. The start document comes in on a pipe, the word how it went goes out on
another. In between the first worker of a volume logs in, opens the LUN, mounts the FUSE file system
on the private directory that it was given, and listens on its control socket. Then it serves until

- it is told to stop, by its socket or by SIGTERM: it flushes, unmounts (which the kernel refuses
  while the file is in use: then nothing happens), logs out and ends;
- the kernel ends the FUSE connection (an abort, or somebody's unmount): it logs out and ends;
- it is told to make room: it answers what it has taken, logs out and ends, and leaves the mount;
- whoever started it is gone before it was ready: it undoes what it did and ends.

Otherwise it dies, with what it has not answered in the request slots. The successor does not mount:
it finds the descriptor, the slots and the note that tells the LUN (:mod:`fusefs.process.takeover`),
and goes on. A fault of ours is a death too: to undo anything would answer the kernel, and what is
answered nobody does again.

INVARIANT: from ``ready`` to the end of service it imports nothing and opens no file: the file
system where these lie may be the one that waits for us (tests/fusefs/process/test_worker.py). The
network namespace of a session is opened anew at each login; that lies on no disk.

Secrets are in this process's memory alone, and in that of the holder; it never writes one anywhere.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import anyio
from anyio.abc import TaskStatus

from fusefs.errors import DeviceBusy, NotAllowed, Timeout
from fusefs.fuse import Channel, RequestSlots, make_channel
from fusefs.host import Host, Refusal
from fusefs.process import pulse
from fusefs.process.control import DESCRIPTORS, ControlServer
from fusefs.process.facts import is_of_the_secret, ready_facts, status_facts
from fusefs.process.growth import LoopGrowth, refreshed_size
from fusefs.process.inherited import Inherited, document_pipe
from fusefs.process.messages import BadMessage, StartDocument
from fusefs.process.private_mount import PrivateMount
from fusefs.process.ready import Ready
from fusefs.process.takeover import Opener, TakeOver, end_fence, leave_notes, open_volume, read_note
from pyscsi_init import BlockDevice
from pyscsi_init.transport import UNDIVIDED_S, Reactor, open_reactor

log = logging.getLogger("fusefs.worker")

ARRIVAL_PATIENCE_S = 2.0
"""How long a successor waits for its LUN before it serves without it."""

DRAIN_S = 20.0
"""How long requests may take to be answered before a successor does them again instead."""


class Worker:
    """The life of one worker; :meth:`run` is all of it."""

    def __init__(
        self,
        inherited: Inherited,
        document: StartDocument,
        encoded: bytes,
        ready: Ready,
        *,
        host: Host,
        refusals: Sequence[Refusal] = (),
        opener: Opener = open_volume,
    ) -> None:
        """``encoded`` is the document as it came: for the holder that follows a dead one."""
        self._inherited = inherited
        self._document = document
        self._encoded = encoded
        self._ready = ready
        self._host = host
        self._refusals = tuple(refusals)
        self._opener = opener
        self._mount = PrivateMount(host, document.fuse_directory)
        self._pulse = inherited.pulse
        self._is_ready = False
        self._told_to_give_up = False
        self._is_unwanted = False
        self._makes_room = False
        self._is_admitted = False
        self._life = anyio.CancelScope()
        self._over = anyio.Event()
        self._drained = anyio.Event()
        self._unmounting = anyio.Lock()
        self._device: BlockDevice | None = None
        self._channel: Channel | None = None
        self._slots: RequestSlots | None = None
        self._take_over: TakeOver | None = None
        self._reactor: Reactor | None = None

    # -- from the start to the end ----------------------------------------------------------------

    @property
    def _is_first(self) -> bool:
        return self._inherited.generation == 1

    async def run(self) -> None:
        """Serve the volume until it is over.

        Raises:
            IscsiError, VolumeError: the volume could not be served; everything is undone.
            BrokenPipeError: whoever started us is gone; everything is undone.
        """
        if self._is_first:
            self._life.deadline = anyio.current_time() + self._document.deadline_s
        async with anyio.create_task_group() as signals:
            signals.start_soon(self._watch_signals)
            with self._life:
                try:
                    async with AsyncExitStack() as undo:
                        await self._serve(undo)
                except BaseException as error:
                    self._die_if_followed(error)
                    if self._is_unwanted:  # the holder has heard that we serve
                        pulse.say(self._pulse, pulse.OVER)
                    raise
            signals.cancel_scope.cancel()
        if self._told_to_give_up:
            log.info("told to give up before the volume was ready; all is undone")
        elif self._life.cancelled_caught and not self._is_ready:
            raise Timeout("attaching the volume", self._document.deadline_s)

    def _die_if_followed(self, error: BaseException) -> None:
        """Where a successor can go on, nothing may be undone: die as a killed process does."""
        is_followed = self._slots is not None and (self._is_ready or not self._is_first)
        if not is_followed or self._over.is_set():
            return
        failure = getattr(self._reactor, "failure", None) or error
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        log.critical("dies of %s: %s", type(failure).__name__, failure)
        self._ready.failed(failure)
        sys.stderr.flush()
        os._exit(1)

    async def _serve(self, undo: AsyncExitStack) -> None:
        spec = self._document.spec
        reactor = self._reactor = await undo.enter_async_context(open_reactor())
        reactor.polling.slice = UNDIVIDED_S
        self._beat(reactor)
        if self._inherited.slots >= 0:
            self._slots = RequestSlots(self._inherited.slots)
        device, connection = None, 0
        if self._is_first:
            device, connection = await self._begin(undo, reactor)
        else:
            undo.push_async_callback(self._unmount_at_the_end)
            await self._mount.make_for_a_successor(self._inherited.fuse, spec.name)
        async with anyio.create_task_group() as serving:
            if device is None:
                device = await self._go_on(serving, reactor)
            self._device = device
            channel = make_channel(
                "native" if spec.fuse_channel == "native" else "pyfuse3",
                self._inherited.fuse,
                device,
                reactor=reactor,
                read_only=spec.read_only,
                name="lun",
                fua=spec.durability == "fua",
                slots=self._slots,
            )
            self._channel = channel
            channel.closed.append(self._over.set)
            growth = LoopGrowth(self._host, device, self._mount.file)
            if self._take_over is not None and self._take_over.has_grown:
                growth.look()
            control = ControlServer(self._document.directory, self._handlers())
            undo.callback(control.close)
            control.open()
            try:
                await serving.start(self._serve_channel, channel)
                serving.start_soon(control.serve)
                serving.start_soon(growth.serve)
                take_over = self._take_over
                if take_over is None or take_over.late.inner is not None:
                    self._serves(ready_facts(device, connection, self._refusals))
                elif take_over.failed is not None:
                    self._ready.failed(take_over.failed)
                await self._over.wait()
            except BaseException as error:
                self._die_if_followed(error)
                raise
            finally:
                with anyio.CancelScope(shield=True):
                    await self._end_of_service(serving, channel, device)
        pulse.say(self._pulse, pulse.HANDED_OVER if self._makes_room else pulse.OVER)

    async def _begin(self, undo: AsyncExitStack, reactor: Reactor) -> tuple[BlockDevice, int]:
        """The first worker of a volume: log in and mount."""
        spec = self._document.spec
        self._ready.step(f"log in to {spec.address.target}")
        device = await undo.enter_async_context(self._opener(self._document, reactor, None))
        self._ready.step("publish the file")
        undo.push_async_callback(self._unmount_at_the_end)
        connection = await self._mount.make(self._inherited.fuse, spec.name)
        self._arrived(device)
        return device, connection

    async def _go_on(self, serving: anyio.abc.TaskGroup, reactor: Reactor) -> BlockDevice:
        """A successor: come to the LUN, or serve without it for a while."""
        slots = self._slots
        if slots is None:
            raise BadMessage("a successor without request slots")
        predecessor = read_note(slots.note, unknown_outcome=slots.has_unknown_outcome())
        self._take_over = take_over = TakeOver(
            self._document, reactor, predecessor, self._opener, self._arrived
        )
        serving.start_soon(take_over.run)
        with anyio.move_on_after(ARRIVAL_PATIENCE_S):
            await take_over.settled.wait()
        return take_over.late.inner or take_over.late

    def _arrived(self, device: BlockDevice) -> None:
        """The LUN is there, for the first worker or for a successor."""
        if self._slots is not None:
            leave_notes(self._slots, device)
            self._slots.settle()  # by the barrier; what was held back until now has never left
        if self._take_over is not None and self._channel is not None:
            # The channel serves already, and stood for the LUN until now.
            self._serves(ready_facts(device, 0, self._refusals))

    def _serves(self, facts: Mapping[str, Any]) -> None:
        if self._is_ready:
            return
        # What lives until now lives as long as the volume: later collections skip it.
        gc.collect()
        gc.freeze()
        self._host.give_back_memory()
        # The holder first: whoever hears the other word may rely on being followed.
        pulse.say(self._pulse, pulse.READY)
        self._is_unwanted = True
        self._ready.ok(facts)
        self._is_unwanted, self._is_ready, self._is_admitted = False, True, True
        self._life.deadline = math.inf
        log.info("serving %s, worker %d", self._document.spec.url, self._inherited.generation)

    async def _serve_channel(self, channel: Channel, *, task_status: TaskStatus[None]) -> None:
        await channel.serve(task_status=task_status)
        self._drained.set()

    def _beat(self, reactor: Reactor) -> None:
        """Now, and every second from the loop: whoever does not hear it holds us for hung."""
        pulse.say(self._pulse, pulse.BEAT)
        reactor.call_at(reactor.now() + pulse.INTERVAL_S, lambda: self._beat(reactor))

    async def _end_of_service(
        self, serving: anyio.abc.TaskGroup, channel: Channel, device: BlockDevice
    ) -> None:
        # The device ends what is in flight: its target, and so the channel, might wait for ever.
        log.info("the service ends")
        channel.stop()
        goes_on, take_over = self._makes_room, self._take_over
        end_fence(device, take_over, goes_on=goes_on, was_admitted=self._is_admitted)
        await device.aclose()
        if take_over is not None:
            await take_over.aclose()
        serving.cancel_scope.cancel()

    async def _unmount_at_the_end(self) -> None:
        if not self._makes_room:
            await self._mount.remove_lazily()

    # -- being asked ------------------------------------------------------------------------------

    def _handlers(self) -> dict[str, Any]:
        return {
            "status": self._on_status,
            "flush": self._on_flush,
            "stop": self._on_stop,
            "refresh-capacity": self._on_refresh_capacity,
            "make-room": self._on_make_room,
            "hold": self._on_hold,
        }

    async def _watch_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                if not self._is_ready and self._is_first:
                    self._told_to_give_up = True
                    self._life.cancel()
                    continue
                try:
                    await self._stop_in_order()
                except Exception as error:
                    log.error("SIGTERM is refused: %s", error)  # noqa: TRY400  (no traceback)

    async def _on_status(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        device, channel = self._parts()
        take_over = self._take_over
        facts = {"pid": os.getpid(), "generation": self._inherited.generation}
        if take_over is None or take_over.late.inner is not None:
            unit = device if take_over is None else take_over.late.inner
            told = status_facts(unit or device, channel)
            if not self._is_first and not channel.statistics.flushes:
                told["io"]["unflushed_writes"] = None  # the predecessor's are not known
            return {**facts, **told}
        return {
            **facts,
            **status_facts(device, channel),
            "recovering": take_over.is_waiting,
            "failed": str(take_over.failed or ""),
            "last_error": str(take_over.last_error or ""),
            "secret_refused": is_of_the_secret(take_over.last_error),
        }

    async def _on_flush(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        device, _ = self._parts()
        await device.flush()
        return {}

    async def _on_refresh_capacity(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        device, _ = self._parts()
        late = self._take_over.late.inner if self._take_over is not None else None
        return {"size_bytes": await refreshed_size(late or device)}

    async def _on_stop(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if request.get("force"):
            log.info("stopping, as told, whatever uses the file")
            self._is_admitted = False  # so ends an attach that was refused
            self._over.set()
        else:
            await self._stop_in_order()
        return {}

    async def _stop_in_order(self) -> None:
        """Flush and unmount; from then on nobody can write, and the service is over.

        Raises:
            DeviceBusy: the file is in use; nothing happened but a flush.
            IscsiError: the flush failed; nothing happened.
        """
        device, _ = self._parts()
        if self._take_over is not None and self._take_over.is_waiting:
            raise DeviceBusy(self._document.fuse_directory, reason="its target is away")
        async with self._unmounting:
            if not self._over.is_set():
                if not device.read_only:
                    await device.flush()
                await self._mount.remove(self._over.is_set)
                self._over.set()

    async def _on_make_room(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer what was taken, and end; the mount and what the kernel still wants stay."""
        _, channel = self._parts()
        if self._slots is None:
            raise NotAllowed(
                "hand the volume over to another worker",
                "libfuse cannot take over a connection",
                remedy="detach the volume and attach it again, with --fuse native",
            )
        channel.stop()
        with anyio.move_on_after(float(request.get("drain_s", DRAIN_S))):
            await self._drained.wait()
        if self._slots.outstanding():
            # Not in this time: the successor does the rest again, after its barrier.
            log.warning("%d requests are left to the successor", len(self._slots.outstanding()))
            pulse.say(self._pulse, pulse.HANDED_OVER)
            os._exit(0)
        self._makes_room = True
        self._over.set()
        return {}

    async def _on_hold(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """Copies of all that a successor needs, for a holder that has not started us."""
        received: list[int] = request[DESCRIPTORS]
        if received:
            old, self._pulse = self._pulse, received.pop(0)
            os.close(old)
        named = {"fuse": self._inherited.fuse, "log": self._inherited.log}
        if self._slots is not None:
            named["slots"] = self._slots.fd
        copies = {name: os.dup(fd) for name, fd in named.items()}
        return {
            "name": self._document.spec.name,
            "generation": self._inherited.generation,
            "ready": self._is_ready,
            "native": self._slots is not None,
            DESCRIPTORS: {**copies, "document": document_pipe(self._encoded)},
        }

    def _parts(self) -> tuple[BlockDevice, Channel]:
        # The control socket is open before the channel is serving, for an instant.
        assert self._device is not None  # noqa: S101
        assert self._channel is not None  # noqa: S101
        return self._device, self._channel
