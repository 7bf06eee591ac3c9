# SPDX-License-Identifier: Apache-2.0
"""One exchange with the holder: a packet there, packets back, within a limit; and what they mean.

Whom to ask, and what to do when nobody answers, is :mod:`fusefs.process.holder_client`'s.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from fusefs.errors import WorkerFailed
from fusefs.process import places
from fusefs.process.packets import BadPacket, Packet, encode, receive, send_with_descriptors
from fusefs.process.pids import WorkerIdentity

ANSWER_SECONDS = 5.0
NOBODY = (errno.ENOENT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE, errno.EAGAIN)


@dataclass(frozen=True, slots=True)
class HeldFacts:
    """What the holder says of a volume."""

    state: str
    """starting, serving, waiting (for the next worker), over (ended in order), dead."""
    worker: WorkerIdentity | None
    restarts: int
    last_death: str
    restart_in_s: float | None
    """Seconds to the next attempt; None unless waiting."""
    native: bool = True

    @property
    def is_followed(self) -> bool:
        """Whether there is a worker, or will be one by itself."""
        return self.state in ("starting", "serving", "waiting")


@dataclass(frozen=True, slots=True)
class HolderStatus:
    """What the holder says of itself and of its volumes. Without a holder: nothing."""

    volumes: Mapping[str, HeldFacts] = field(default_factory=dict)
    pid: int | None = None
    zygote_pid: int | None = None
    notes: tuple[str, ...] = ()
    """What of its protection could not be done on this host."""
    tended_by: str = ""
    """Who sees to it that there is one, whether or not there are volumes; empty for nobody."""


class HolderEnded(WorkerFailed):
    """The holder went away without an answer."""


class HolderIsOlder(WorkerFailed):
    """The holder runs code that cannot do what is asked of it."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "its holder is of older code and takes no other CHAP secret")


def connected(run: Path) -> socket.socket | None:
    try:
        directory = os.open(run, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        connection.connect(places.holder_path(directory))
    except OSError as error:
        connection.close()
        if error.errno not in NOBODY:
            raise WorkerFailed("", f"its holder cannot be asked: {error.strerror}") from error
        return None
    finally:
        os.close(directory)
    return connection


def collecting(volumes: dict[str, HeldFacts]) -> Callable[[Packet], None]:
    def collect(packet: Packet) -> None:
        facts = packet.values["facts"]
        pid = int(facts["pid"])
        volumes[str(packet.values["volume"])] = HeldFacts(
            str(facts["state"]),
            WorkerIdentity(pid, int(facts["start_time"])) if pid else None,
            int(facts["restarts"]),
            str(facts["last_death"]),
            facts["restart_in_s"],
            bool(facts["native"]),
        )

    return collect


async def send(
    connection: socket.socket,
    values: Mapping[str, Any],
    payload: bytes = b"",
    descriptors: Sequence[int] = (),
) -> None:
    data = encode(values, payload)
    while True:
        try:
            send_with_descriptors(connection, data, descriptors)
        except BlockingIOError:
            await anyio.wait_writable(connection)
        else:
            return


async def exchange(
    connection: socket.socket,
    values: Mapping[str, Any],
    payload: bytes,
    descriptors: Sequence[int],
    name: str,
    seconds: float = ANSWER_SECONDS,
    also: Callable[[Packet], None] | None = None,
) -> Mapping[str, Any]:
    try:
        with anyio.fail_after(seconds):
            await send(connection, values, payload, descriptors)
            return await result_of(connection, name, also)
    except TimeoutError:
        what = values.get("request")
        raise WorkerFailed(name, f"the holder did not answer {what!r} in {seconds:g} s") from None
    except OSError as error:
        raise HolderEnded(name, f"its holder went away: {error.strerror}") from error


async def result_of(
    connection: socket.socket, name: str, also: Callable[[Packet], None] | None = None
) -> Mapping[str, Any]:
    while True:
        packet = await _next(connection, name)
        if "ok" not in packet.values:
            if also is not None:
                also(packet)
            continue
        if packet.values["ok"] is not True:
            raise WorkerFailed(name, str(packet.values.get("error")))
        return dict(packet.values["result"])


async def noted(connection: socket.socket, name: str) -> Mapping[str, Any]:
    """Wait for the word that comes before a result that takes its time; what it says.

    Raises:
        WorkerFailed: there will be no result.
    """
    try:
        with anyio.fail_after(ANSWER_SECONDS):
            packet = await _next(connection, name)
    except TimeoutError:
        raise WorkerFailed(name, "the holder does not answer") from None
    if "ok" in packet.values:
        raise WorkerFailed(name, str(packet.values.get("error")))
    return packet.values


async def _next(connection: socket.socket, name: str) -> Packet:
    while True:
        try:
            packet = receive(connection)
        except BlockingIOError:
            await anyio.wait_readable(connection)
            continue
        except (OSError, BadPacket) as error:
            raise HolderEnded(name, f"its holder went away: {error}") from error
        if packet is None:
            raise HolderEnded(name, "its holder went away")
        packet.close()
        return packet
