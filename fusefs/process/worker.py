# SPDX-License-Identifier: Apache-2.0
"""One volume's data path in a process of its own: ``python -m fusefs.process.worker``.

Theory of operation. The start document comes in on standard input, the word how it went goes out on
descriptor 3. In between the worker logs in, opens the LUN, mounts the FUSE file system on the
private directory that it was given, and listens on its control socket. Then it serves until

- it is told to stop, by its socket or by SIGTERM: it flushes, unmounts (which the kernel refuses
  while the file is in use: then nothing happens), logs out and ends;
- the kernel ends the FUSE connection (an abort, or somebody's unmount): it logs out and ends;
- whoever started it is gone before it was ready: it undoes what it did and ends.

SIGINT means nothing to it: Ctrl-C belongs to the command in the foreground.

INVARIANT: from ``ready`` to the end of service it imports nothing and opens no file: the file
system where these lie may be the one that waits for us (tests/fusefs/process/test_worker.py).

Secrets are in this process's memory alone; it never writes one anywhere.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import math
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import anyio
import anyio.to_thread

from fusefs.errors import DeviceBusy, HostError, Timeout
from fusefs.fuse import Channel, make_channel
from fusefs.host import Host, LinuxHost, Refusal
from fusefs.process.control import ControlServer
from fusefs.process.facts import ready_facts, status_facts
from fusefs.process.growth import LoopGrowth, refreshed_size
from fusefs.process.launch import READY_FD
from fusefs.process.messages import (
    MAX_LINE_BYTES,
    BadMessage,
    StartDocument,
    encode_error,
    encode_line,
)
from pyscsi_init import BlockDevice, open_lun
from pyscsi_init.device import require_writable
from pyscsi_init.transport import Reactor, open_reactor

log = logging.getLogger("fusefs.worker")

IN_USE_PATIENCE_S = 2.0
IN_USE_PAUSE_S = 0.05
"""The kernel closes the file of a detached loop device a moment after the detach."""

Opener = Callable[[StartDocument, Reactor], AbstractAsyncContextManager[BlockDevice]]


@contextlib.asynccontextmanager
async def open_volume(document: StartDocument, reactor: Reactor) -> AsyncIterator[BlockDevice]:
    """The LUN of the document, checked to be writable where it is to be written."""
    spec = document.spec
    async with open_lun(
        spec.address,
        chap=document.chap,
        settings=spec.session_settings(),
        initiator_name=spec.initiator_name or None,
        isid=document.isid,
        read_only=spec.read_only,
        reactor=reactor,
        open_timeout=document.deadline_s,
    ) as unit:
        if not spec.read_only:
            require_writable(unit)
        yield unit


class Ready:
    """The ready pipe: steps, then one last word."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def step(self, text: str) -> None:
        """Tell of a step. Raises BrokenPipeError when nobody listens any more."""
        os.write(self._fd, encode_line({"progress": text}))

    def ok(self, facts: Mapping[str, Any]) -> None:
        """The volume is served. Raises BrokenPipeError as above."""
        self._last({"ok": True, "facts": dict(facts)})

    def failed(self, error: BaseException) -> None:
        """It is not, and all is undone."""
        with contextlib.suppress(BrokenPipeError):
            self._last({"ok": False, "error": encode_error(error)})

    def _last(self, document: Mapping[str, Any]) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                os.write(fd, encode_line(document))
            finally:
                os.close(fd)


class Worker:
    """The life of one worker; :meth:`run` is all of it."""

    def __init__(
        self,
        document: StartDocument,
        ready: Ready,
        *,
        host: Host,
        refusals: Sequence[Refusal] = (),
        opener: Opener = open_volume,
    ) -> None:
        self._document = document
        self._ready = ready
        self._host = host
        self._refusals = tuple(refusals)
        self._opener = opener
        self._is_ready = False
        self._told_to_give_up = False
        self._life = anyio.CancelScope()
        self._over = anyio.Event()
        self._unmounting = anyio.Lock()
        self._device: BlockDevice | None = None
        self._channel: Channel | None = None

    # -- from the start to the end ----------------------------------------------------------------

    async def run(self) -> None:
        """Serve the volume until it is over.

        Raises:
            IscsiError, VolumeError: the volume could not be served; everything is undone.
            BrokenPipeError: whoever started us is gone; everything is undone.
        """
        self._life.deadline = anyio.current_time() + self._document.deadline_s
        async with anyio.create_task_group() as signals:
            signals.start_soon(self._watch_signals)
            with self._life:
                async with AsyncExitStack() as undo:
                    await self._serve(undo)
            signals.cancel_scope.cancel()
        if self._told_to_give_up:
            log.info("told to give up before the volume was ready; all is undone")
        elif self._life.cancelled_caught and not self._is_ready:
            raise Timeout("attaching the volume", self._document.deadline_s)

    async def _serve(self, undo: AsyncExitStack) -> None:
        spec = self._document.spec
        self._ready.step(f"log in to {spec.address.target}")
        reactor = await undo.enter_async_context(open_reactor())
        device = await undo.enter_async_context(self._opener(self._document, reactor))
        self._device = device

        self._ready.step("publish the file")
        fuse_fd = await self._in_thread(self._host.open_fuse)
        undo.callback(os.close, fuse_fd)
        undo.push_async_callback(self._unmount_at_the_end)
        connection = await self._in_thread(
            self._host.fuse_mount,
            fuse_fd,
            self._document.fuse_directory,
            source=f"pyscsi-init:{spec.name}",
            subtype="pyscsi-init",
            options=("default_permissions",),
        )
        channel = make_channel(
            "native" if spec.fuse_channel == "native" else "pyfuse3",
            fuse_fd,
            device,
            reactor=reactor,
            read_only=spec.read_only,
            name="lun",
            fua=spec.durability == "fua",
        )
        self._channel = channel
        channel.closed.append(self._over.set)

        growth = LoopGrowth(self._host, device, f"{self._document.fuse_directory}/lun")
        handlers = {
            "status": self._on_status,
            "flush": self._on_flush,
            "refresh-capacity": self._on_refresh_capacity,
            "stop": self._on_stop,
        }
        control = ControlServer(self._document.directory, handlers)
        undo.callback(control.close)
        control.open()
        async with anyio.create_task_group() as serving:
            await serving.start(channel.serve)
            serving.start_soon(control.serve)
            serving.start_soon(growth.serve)
            facts = ready_facts(device, fuse_connection=connection, refusals=self._refusals)
            # What lives until now lives as long as the volume: later collections skip it.
            gc.collect()
            gc.freeze()
            self._is_ready = True
            self._life.deadline = math.inf
            self._ready.ok(facts)
            log.info("serving %s: %d bytes", spec.url, device.size_bytes)
            try:
                await self._over.wait()
            finally:
                with anyio.CancelScope(shield=True):
                    await self._end_of_service(serving, channel, device)

    async def _end_of_service(
        self, serving: anyio.abc.TaskGroup, channel: Channel, device: BlockDevice
    ) -> None:
        # What is in flight is ended by the device; else a channel would wait for it, and it for a
        # target that may never come back.
        log.info("the service ends")
        channel.stop()
        await device.aclose()
        serving.cancel_scope.cancel()

    async def _unmount_at_the_end(self) -> None:
        with anyio.CancelScope(shield=True), contextlib.suppress(HostError, DeviceBusy):
            await self._in_thread(self._host.umount, self._document.fuse_directory, lazy=True)

    async def _in_thread(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await anyio.to_thread.run_sync(functools.partial(function, *args, **kwargs))

    # -- being asked ------------------------------------------------------------------------------

    async def _watch_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                if not self._is_ready:
                    self._told_to_give_up = True
                    self._life.cancel()
                    continue
                try:
                    await self._stop_in_order()
                except Exception as error:
                    log.error("SIGTERM is refused: %s", error)  # noqa: TRY400  (no traceback)

    async def _on_status(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        device, channel = self._parts()
        return {"pid": os.getpid(), **status_facts(device, channel)}

    async def _on_flush(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        device, _ = self._parts()
        await device.flush()
        return {}

    async def _on_refresh_capacity(self, _request: Mapping[str, Any]) -> Mapping[str, Any]:
        device, _ = self._parts()
        return {"size_bytes": await refreshed_size(device)}

    async def _on_stop(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        if request.get("force"):
            log.info("stopping, as told, whatever uses the file")
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
        async with self._unmounting:
            if self._over.is_set():
                return
            if not device.read_only:
                await device.flush()
            patience = anyio.current_time() + IN_USE_PATIENCE_S
            while not self._over.is_set():
                try:
                    await self._in_thread(self._host.umount, self._document.fuse_directory)
                    self._over.set()
                except DeviceBusy as error:
                    if anyio.current_time() > patience:
                        path = f"{self._document.fuse_directory}/lun"
                        raise DeviceBusy(path, users=error.users, reason="it is open") from error
                    await anyio.sleep(IN_USE_PAUSE_S)

    def _parts(self) -> tuple[BlockDevice, Channel]:
        # The control socket is open before the channel is serving, for an instant.
        assert self._device is not None  # noqa: S101
        assert self._channel is not None  # noqa: S101
        return self._device, self._channel


# -- the process ----------------------------------------------------------------------------------


def read_document(fd: int) -> StartDocument:
    """The start document, up to the end of the pipe.

    Raises:
        BadMessage, ConfigurationError, InvalidSpec: it cannot be used.
    """
    data = bytearray()
    while chunk := os.read(fd, MAX_LINE_BYTES):
        data += chunk
        if len(data) > MAX_LINE_BYTES:
            raise BadMessage("start document without an end")
    return StartDocument.decode(bytes(data))


class _Formatter(logging.Formatter):
    """Without tracebacks: printing one opens the source files."""

    def formatException(self, ei: Any) -> str:  # noqa: N802  (logging's own name)
        return f"{ei[0].__name__}: {ei[1]}"


def _prepare_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.umask(0o077)
    os.chdir("/")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _loop_of(document: StartDocument) -> tuple[str, dict[str, Any]]:
    if document.spec.fuse_channel == "pyfuse3":
        return "trio", {}
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return "asyncio", {}
    return "asyncio", {"use_uvloop": True}


def main(opener: Opener = open_volume) -> int:
    """Run a worker in this process; the exit status is 0 when the volume was served."""
    ready = Ready(READY_FD)
    _prepare_process()
    try:
        document = read_document(0)
        os.environ["PYSCSI_INIT_STATE_DIR"] = document.state_directory
        null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        os.dup2(null, 0)
        os.close(null)
        # Looked up now: the codec that getaddrinfo wants is otherwise imported at a reconnect.
        "localhost".encode("idna")
        backend, options = _loop_of(document)
        host = LinuxHost()
        # Here and not in a helper thread: PR_SET_IO_FLUSHER is for the thread that asks for it, and
        # those it starts.
        refusals = host.protect_process()
        worker = functools.partial(_run, document, ready, host, refusals, opener)
        anyio.run(worker, backend=backend, backend_options=options)
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return _end(ready, error)
    except Exception as error:
        return _end(ready, error)
    return 0


async def _run(
    document: StartDocument, ready: Ready, host: Host, refusals: Sequence[Refusal], opener: Opener
) -> None:
    await Worker(document, ready, host=host, refusals=refusals, opener=opener).run()


def _end(ready: Ready, error: BaseException) -> int:
    log.error("%s: %s", type(error).__name__, error)
    ready.failed(error)
    return 1


if __name__ == "__main__":
    sys.exit(main())
