# SPDX-License-Identifier: Apache-2.0
"""Asking the holder of a run directory, and starting it where none runs.

Each call is one connection. A holder that ends while it is asked (its last volume was forgotten) is
no failure: the next one is started and asked. Volumes whose holder died are found again by the one
that any call here starts.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from fusefs.errors import NotAllowed, WorkerFailed
from fusefs.host import Host
from fusefs.process import places
from fusefs.process.exchange import (
    ANSWER_SECONDS,
    HeldFacts,
    HolderEnded,
    HolderIsOlder,
    HolderStatus,
    collecting,
    connected,
    exchange,
    noted,
    result_of,
    send,
)
from fusefs.process.launch import (
    ZYGOTE_MODULE,
    StartedWorker,
    code_of_this_process,
    spawn_holder,
)
from fusefs.process.messages import StartDocument, encode_chap, encode_line
from fusefs.process.packets import Packet, peer_of
from fusefs.process.pids import WorkerIdentity
from pyscsi_init.secret import Chap

START_SECONDS = 20.0
"""For a holder to be there, and for a zygote that imports everything on a slow machine."""
AGAIN_SECONDS = 2.0
"""A holder that was started and is not there by then has died, or ended because nobody came."""
EXTERNAL_SECONDS = 10.0
"""For a data plane that is another program's to see that its holder is gone and have another."""
MISSING_SECONDS = 20.0
"""After a wait for a data plane that did not come, for so long nobody waits for it again: one call
of a front door asks several times."""
FORK_SECONDS = 30.0
END_SECONDS = 5.0
TAKE_OVER_SECONDS = 60.0
"""For a holder to hand over: while it starts a worker it does not."""
ASKING_SECONDS = 2.0
"""How long a holder that has just begun may take to hear of its volumes."""
_PAUSE_S = 0.01
_LOOK_S = 0.1

DATA_PLANE_VARIABLE = "PYSCSI_INIT_DATA_PLANE"
NO_DATA_PLANE = (
    f"no holder runs, and {DATA_PLANE_VARIABLE}=external says that another program has it; see "
    f"that `pyscsi-init data-plane` runs on this node with the same run directory"
)


def is_external() -> bool:
    """Whether holder and workers belong to a `pyscsi-init data-plane`, and are not to be started
    by whoever needs them: their files and their mounts would be in the wrong place."""
    return os.environ.get(DATA_PLANE_VARIABLE, "").lower() == "external"


class HolderClient:
    """The holder of the run directory ``run``."""

    def __init__(
        self,
        run: Path | str,
        host: Host,
        *,
        zygote: str = ZYGOTE_MODULE,
        silence_s: float | None = None,
        tended_by: str = "",
        state: Path | str | None = None,
    ) -> None:
        """``zygote`` is the module that its zygotes run; ``silence_s`` after how many seconds
        without a beat a worker is killed, if not the usual. ``tended_by`` is the caller's name if
        it sees to it that there is a holder, whether or not there are volumes. ``state`` is the
        state directory, which a holder that is started must see."""
        self._run = Path(run)
        self._host = host
        self._zygote = zygote
        self._silence_s = silence_s
        self.tended_by = tended_by
        self._needed = [] if state is None else [str(state)]
        self._missing_until = 0.0
        self._may_start = bool(tended_by) or not is_external()

    # -- volumes ----------------------------------------------------------------------------------

    async def start(
        self, document: StartDocument, descriptors: Mapping[str, int], log: Path
    ) -> StartedWorker:
        """Let the holder keep a volume and start its first worker.

        ``descriptors`` are ``fuse``, ``slots`` (with the native channel); they stay the caller's.

        Raises:
            WorkerFailed: it could not be started.
        """
        name = document.spec.name
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.ExitStack() as ours:
            ready_read, ready_write = os.pipe2(os.O_CLOEXEC)
            ours.callback(os.close, ready_write)
            with contextlib.ExitStack() as on_failure:
                on_failure.callback(os.close, ready_read)
                log_fd = os.open(log, flags, 0o600)
                ours.callback(os.close, log_fd)
                named = {**descriptors, "ready": ready_write, "log": log_fd}
                values = {
                    "request": "start",
                    "name": name,
                    "directory": Path(document.directory).name,
                    "native": document.spec.fuse_channel == "native",
                    "descriptors": list(named),
                }
                result = await self._ask(
                    name, values, document.encode(), list(named.values()), FORK_SECONDS
                )
                on_failure.pop_all()
        identity = WorkerIdentity(int(result["pid"]), int(result["start_time"]))
        return StartedWorker(name, identity, ready_read, log)

    @asynccontextmanager
    async def ending(self, name: str) -> AsyncIterator[None]:
        """While inside, nobody follows a worker of the volume that dies. If it was not forgotten
        inside, and its worker lives, it is held on as before."""
        with contextlib.ExitStack() as ours:
            connection = await self._connect(start=False)
            if connection is not None:
                ours.enter_context(connection)
                with contextlib.suppress(HolderEnded):  # so it has no volume any more
                    request = {"request": "ending", "name": name}
                    await exchange(connection, request, b"", (), name)
            yield

    async def forget(self, name: str) -> None:
        """Let go of a volume. A holder that has none left ends; it has ended on return."""
        connection = await self._connect(start=False)
        if connection is None:
            return
        with connection:
            try:
                pidfd = os.pidfd_open(peer_of(connection)[0])
            except OSError:
                return
            try:
                request = {"request": "forget", "name": name}
                result = await exchange(connection, request, b"", (), name)
                if result["ends"]:
                    with anyio.move_on_after(END_SECONDS):
                        await anyio.wait_readable(pidfd)
                    await anyio.to_thread.run_sync(self._host.remove_process_group)
            except HolderEnded:
                return
            finally:
                os.close(pidfd)

    async def status(self, *, start: bool = True) -> HolderStatus:
        """What the holder knows. With ``start`` one is started where none runs and there are
        volumes.

        Raises:
            WorkerFailed: there are volumes, and no holder can be had.
        """
        if not start:
            connection = await self._connect(start=False)
            if connection is None:
                return HolderStatus()
            connection.close()
        if not await anyio.to_thread.run_sync(self._has_volumes):
            return HolderStatus()
        deadline = anyio.current_time() + ASKING_SECONDS
        while True:
            volumes: dict[str, HeldFacts] = {}
            values = await self._ask("", {"request": "status"}, also=collecting(volumes))
            if not values.get("asking") or anyio.current_time() > deadline:
                return HolderStatus(
                    volumes,
                    int(values["pid"]),
                    int(values["zygote_pid"]) or None,
                    tuple(values["notes"]),
                    str(values.get("tended_by") or ""),
                )
            await anyio.sleep(_PAUSE_S)

    # -- replacing --------------------------------------------------------------------------------

    @asynccontextmanager
    async def successor(
        self, name: str, chap: Chap | None = None
    ) -> AsyncIterator[Callable[[float], Any]]:
        """Inside, the worker is to be made to end; the yielded function then waits, at most so many
        seconds, until its successor serves, and returns what ``status`` says of it. With ``chap``
        that one and all after it log in with other credentials.

        The function raises WorkerFailed if there will be none. Entering raises it where the holder
        would start none, or knows nothing of credentials: then the worker must go on.
        """
        connection = await self._connect(start=True)
        assert connection is not None  # noqa: S101  (it was started)
        with connection:
            credentials = encode_line({"chap": encode_chap(chap)}) if chap else b""
            await send(connection, {"request": "successor", "name": name}, credentials)
            told = await noted(connection, name)
            if chap and not told.get("credentials"):
                raise HolderIsOlder(name)

            async def wait(seconds: float) -> Mapping[str, Any]:
                try:
                    with anyio.fail_after(seconds):
                        return await result_of(connection, name)
                except TimeoutError:
                    why = f"its successor does not serve after {seconds:g} s"
                    raise WorkerFailed(name, why) from None

            yield wait

    async def renew_zygote(self) -> int:
        """Let workers come from the code of this process from now on; the zygote's number.

        Raises:
            WorkerFailed: the new zygote did not come up; the old one goes on.
        """
        if not self._may_start:
            raise NotAllowed(
                "replace the zygote from here",
                f"{DATA_PLANE_VARIABLE}=external: the data plane is another program's",
                remedy="start the newer `pyscsi-init data-plane`: it takes over by itself",
            )
        request = {"request": "zygote", **code_of_this_process()}
        return int((await self._ask("", request, seconds=FORK_SECONDS))["pid"])

    async def renew_holder(self) -> int:
        """Replace the holder by one of the code of this process; the number of the one there is.

        Raises:
            WorkerFailed: none can be had.
        """
        before = (await self._ask("", {"request": "status"}, also=collecting({})))["pid"]
        await self._start(take_over=True)
        deadline = anyio.current_time() + START_SECONDS
        while True:
            now = (await self._ask("", {"request": "status"}, also=collecting({})))["pid"]
            if now != before or anyio.current_time() > deadline:
                return int(now)
            await anyio.sleep(_PAUSE_S)

    # -- tending ----------------------------------------------------------------------------------

    async def tender(self) -> str | None:
        """Who tends the holder that runs, empty for nobody; None where none runs or answers."""
        connection = await self._connect(start=False)
        if connection is None:
            return None
        with connection, contextlib.suppress(WorkerFailed):
            request = {"request": "status"}
            values = await exchange(connection, request, b"", (), "", also=collecting({}))
            return str(values.get("tended_by") or "")
        return None

    async def take_over(self) -> None:
        """See that the holder is one of ours: of this process's code, in its namespaces, tended by
        it. One of another is asked for all it has, and ends.

        Raises:
            WorkerFailed: it keeps everything, or none comes up.

        Cancellation: there is a holder, ours or the other.
        """
        deadline = anyio.current_time() + TAKE_OVER_SECONDS
        while (before := await self.tender()) != self.tended_by:
            if anyio.current_time() > deadline:
                raise WorkerFailed("", f"the holder of {before or 'nobody'} does not hand over")
            await self._start(take_over=before is not None)
            # Of two that start at once one ends, so one look after another is all it takes.
            await anyio.sleep(_LOOK_S)

    async def leave(self) -> None:
        """We end: the holder, should it be ours, ends with its last volume."""
        connection = await self._connect(start=False)
        if connection is not None:
            with connection, contextlib.suppress(WorkerFailed):
                request = {"request": "untended", "by": self.tended_by}
                await exchange(connection, request, b"", (), "")

    # -- inside -----------------------------------------------------------------------------------

    def _has_volumes(self) -> bool:
        try:
            directories = list((self._run / places.VOLUMES).iterdir())
        except FileNotFoundError:
            return False
        # A directory without a state file is nobody's volume.
        return any((directory / places.STATE).exists() for directory in directories)

    async def _ask(
        self,
        name: str,
        values: Mapping[str, Any],
        payload: bytes = b"",
        descriptors: Sequence[int] = (),
        seconds: float = ANSWER_SECONDS,
        also: Callable[[Packet], None] | None = None,
    ) -> Mapping[str, Any]:
        """One request. Asked again where the holder ended without an answer: it does nothing more
        when it has begun to end."""
        deadline = anyio.current_time() + START_SECONDS
        while True:
            connection = await self._connect(start=True)
            assert connection is not None  # noqa: S101
            with connection:
                try:
                    return await exchange(
                        connection, values, payload, descriptors, name, seconds, also
                    )
                except HolderEnded:
                    if anyio.current_time() > deadline:
                        raise

    async def _connect(self, *, start: bool) -> socket.socket | None:
        next_start = anyio.current_time()
        deadline = next_start + (START_SECONDS if self._may_start else EXTERNAL_SECONDS)
        while True:
            connection = connected(self._run)
            if connection is not None or not start:
                return connection
            now = anyio.current_time()
            if not self._may_start and time.monotonic() < self._missing_until:
                raise WorkerFailed("", NO_DATA_PLANE)
            if now > deadline and not self._may_start:
                self._missing_until = time.monotonic() + MISSING_SECONDS
                raise WorkerFailed("", NO_DATA_PLANE)
            if now > deadline:
                raise WorkerFailed("", f"no holder comes up; see {self._run / places.LOG_NAME}")
            if now >= next_start and self._may_start:
                # Of two that start at once one ends, so a start too many does no harm.
                await self._start()
                next_start = anyio.current_time() + AGAIN_SECONDS
            await anyio.sleep(_PAUSE_S)

    async def _start(self, *, take_over: bool = False) -> None:
        configuration = {
            **code_of_this_process(),
            "run": str(self._run),
            "zygote": self._zygote,
            "silence_s": self._silence_s,
            "take_over": take_over,
            "tended_by": self.tended_by,
        }

        def begin() -> None:
            volumes = str(self._run / places.VOLUMES)
            needed = [*self._needed, *configuration["roots"]]
            spawn_holder(
                configuration,
                prefix=[
                    *self._host.process_group_command(),
                    *self._host.own_mounts_command(volumes, needed),
                ],
                before=self._host.set_process_apart,
            )

        try:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(begin)
        except OSError as error:
            raise WorkerFailed("", f"no holder can be started: {error}") from error
