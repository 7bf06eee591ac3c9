# SPDX-License-Identifier: Apache-2.0
"""How a holder comes to its volumes when it did not start them.

Its predecessor is dead: each worker has copies of what the holder had of it, and is asked for them
on its control socket (``hold``); with the request goes a new pulse. Or its predecessor lives and
gives everything away (``hand-over``), which is how a holder is replaced by newer code.

A worker that does not answer yet is asked as long as it takes; one that was starting when its
holder died is found when its control socket appears.

INVARIANT: nothing but the standard library, because the holder imports this.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusefs.process import places
from fusefs.process.held import HeldVolume, Keeping
from fusefs.process.loop import Loop
from fusefs.process.packets import (
    BadPacket,
    Outbox,
    Packet,
    close_all,
    encode,
    peer_of,
    receive,
    receive_with_descriptors,
    send_with_descriptors,
)
from fusefs.process.pids import WorkerIdentity, start_time_of
from fusefs.process.pulse import make_pulse
from fusefs.process.restarts import Restarts

log = logging.getLogger("fusefs.holder")

RESCAN_S = 2.0
BIRTH_S = 6.0
"""So long a volume that nobody answers for may have a worker that is being born: a successor
listens when it has come to its LUN, or two seconds have passed."""
TAKE_OVER_S = 10.0
_CHUNK = 65536


@dataclass(slots=True)
class _Question:
    """One worker that was asked and has not answered."""

    directory: str
    connection: socket.socket
    pulse: int
    received: bytearray = field(default_factory=bytearray)
    descriptors: list[int] = field(default_factory=list)


class Rebuilding:
    """Fills ``keeping`` with what others have."""

    def __init__(self, loop: Loop, keeping: Keeping, run: str) -> None:
        self._loop = loop
        self._keeping = keeping
        self._volumes = Path(run) / places.VOLUMES
        self._questions: dict[str, _Question] = {}
        self._silent: dict[str, str] = {}
        """Volumes that were there before us and nobody has answered for: directory -> name."""

    @property
    def is_busy(self) -> bool:
        """Whether a worker has not answered yet."""
        return bool(self._questions)

    @property
    def may_find_more(self) -> bool:
        """Whether a worker that is being born may belong to a volume that is there."""
        return bool(self._silent)

    def waits_for(self) -> list[str]:
        """The directories of the workers that have not answered."""
        return sorted({*self._questions, *self._silent})

    def begin(self) -> None:
        """Ask for the volumes that there are; ``may_find_more`` for as long as one may be found."""
        with contextlib.suppress(OSError):
            for each in self._volumes.iterdir():
                if (each / places.STATE).exists() and not self._is_held(each.name):
                    spec = self._state_of(each.name).get("spec")
                    name = spec.get("name") if isinstance(spec, dict) else ""
                    self._silent[each.name] = str(name)
        self._loop.call_in(BIRTH_S, self._silent.clear)
        self.ask_the_workers()

    def expect_no_more(self, name: str) -> None:
        """A command has begun or ended this volume: nobody else will answer for it."""
        for directory in [each for each, its in self._silent.items() if its == name]:
            del self._silent[directory]

    # -- from the workers -------------------------------------------------------------------------

    def ask_the_workers(self) -> None:
        """Ask every worker that is not held; now, and from time to time."""
        with contextlib.suppress(OSError):
            for directory in sorted(each.name for each in self._volumes.iterdir()):
                if directory not in self._questions and not self._is_held(directory):
                    self._ask(directory)
        self._loop.call_in(RESCAN_S, self.ask_the_workers)

    def _is_held(self, directory: str) -> bool:
        return any(volume.directory == directory for volume in self._keeping.volumes.values())

    def _ask(self, directory: str) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        pulse = -1
        try:
            folder = os.open(self._volumes / directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                connection.connect(places.through(folder, places.CONTROL_SOCKET))
            finally:
                os.close(folder)
            pulse = make_pulse()
            values = {"request": "hold", "descriptors": ["pulse"]}
            send_with_descriptors(connection, encode(values), [pulse])
        except OSError:  # nobody listens: no worker, or not yet
            connection.close()
            close_all([pulse])
            return
        question = _Question(directory, connection, pulse)
        self._questions[directory] = question
        self._loop.watch(connection.fileno(), lambda: self._heard(question))

    def _heard(self, question: _Question) -> None:
        try:
            data, descriptors = receive_with_descriptors(question.connection, _CHUNK)
        except BlockingIOError:
            return
        except (OSError, BadPacket):
            data, descriptors = b"", []
        question.received += data
        question.descriptors += descriptors
        if data and not question.received.endswith(b"\n") and len(question.received) < _CHUNK:
            return
        pid, _uid = peer_of(question.connection)
        self._loop.unwatch(question.connection.fileno())
        question.connection.close()
        del self._questions[question.directory]
        try:
            reply = json.loads(question.received)
            packet = Packet(dict(reply["result"]), b"", question.descriptors)
        except (ValueError, KeyError, TypeError):
            close_all([*question.descriptors, question.pulse])
            return
        try:
            self._adopt(question, packet, pid)
        finally:
            packet.close()

    def _adopt(self, question: _Question, packet: Packet, pid: int) -> None:
        values = packet.values
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            close_all([question.pulse])
            return
        document = packet.take("document")
        name = str(values["name"])
        volume = HeldVolume(
            name,
            _read_all(document),
            packet.take("fuse"),
            packet.take("slots"),
            packet.take("log"),
            native=bool(values["native"]),
            directory=question.directory,
            pulse=question.pulse,
            generation=int(values["generation"]),
            worker=WorkerIdentity(pid, start_time_of(pid) or -1),
            # A successor that has not come to its LUN is followed as those before it.
            was_ready=int(values["generation"]) > 1,
            restarts=Restarts(int(values["generation"]) - 1),
        )
        if self._is_being_ended(question.directory):
            volume.ending = "its state file says so"
        self._silent.pop(question.directory, None)
        log.info("volume %s: worker %d goes on", name, pid)
        self._keeping.adopt(volume, pidfd, serving=bool(values["ready"]))
        self._keeping.prepare()

    def _is_being_ended(self, directory: str) -> bool:
        return bool(self._state_of(directory).get("phase") == "detaching")

    def _state_of(self, directory: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self._volumes / directory / places.STATE).read_bytes()))
        except (OSError, ValueError, TypeError):
            return {}

    # -- from one holder to the next --------------------------------------------------------------

    def give(self, outbox: Outbox) -> None:
        """Send every volume. They stay ours until the other one has all."""
        for volume in self._keeping.volumes.values():
            worker = volume.worker
            named = {**volume.descriptors(), "pidfd": volume.pidfd}
            present = {name: fd for name, fd in named.items() if fd >= 0}
            outbox.put(
                {
                    "volume": volume.name,
                    "descriptors": list(present),
                    "native": volume.native,
                    "directory": volume.directory,
                    "state": volume.state,
                    "generation": volume.generation,
                    "was_ready": volume.was_ready,
                    "pid": worker.pid if worker else 0,
                    "start_time": worker.start_time if worker else 0,
                    "restarts": volume.restarts.count,
                    "last_death": volume.last_death,
                },
                volume.document,
                list(present.values()),
            )

    def ask_the_holder(self, path: str) -> list[Packet] | None:
        """Ask the living holder for everything, and return it: nothing where there is no holder,
        None where it keeps everything. Waits, within a limit: there is nothing else to do yet."""
        received: list[Packet] = []
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
            other.settimeout(TAKE_OVER_S)
            try:
                other.connect(path)
                other.send(encode({"request": "hand-over"}))
                while (packet := receive(other)) is not None and "done" not in packet.values:
                    received.append(packet)
                    if packet.values.get("ok") is False:
                        log.error("the holder keeps everything: %s", packet.values.get("error"))
                        return None
            except (FileNotFoundError, ConnectionRefusedError):
                return []
            except (OSError, BadPacket):
                packet = None
            if packet is None:
                for each in received:
                    each.close()
                return None
        return received

    def take(self, received: list[Packet], adopt: Callable[[socket.socket, int], None]) -> None:
        """Keep what the other one gave: first the zygote, since the volumes may want it."""
        for each in received:
            if "zygote" in each.values:
                adopt(socket.socket(fileno=each.take("zygote")), int(each.values["zygote"]))
        for each in received:
            if "volume" in each.values:
                self._take(each)
            each.close()

    def _take(self, packet: Packet) -> None:
        values: Mapping[str, Any] = packet.values
        pid = int(values["pid"])
        volume = HeldVolume(
            str(values["volume"]),
            packet.payload,
            packet.take("fuse"),
            packet.take("slots"),
            packet.take("log"),
            native=bool(values["native"]),
            directory=str(values["directory"]),
            pulse=packet.take("pulse"),
            state=str(values["state"]),
            generation=int(values["generation"]),
            worker=WorkerIdentity(pid, int(values["start_time"])) if pid else None,
            was_ready=bool(values["was_ready"]),
            restarts=Restarts(int(values["restarts"])),
            last_death=str(values["last_death"]),
        )
        pidfd = packet.take("pidfd")
        if pidfd >= 0:
            self._keeping.adopt(volume, pidfd, serving=volume.state == "serving")
        else:
            self._keeping.volumes[volume.name] = volume
            if volume.state == "waiting":
                self._keeping.stay(volume)


def _read_all(descriptor: int) -> bytes:
    """What the worker left in the pipe; it has closed its end."""
    data = bytearray()
    try:
        os.set_blocking(descriptor, False)
        while chunk := os.read(descriptor, _CHUNK):
            data += chunk
    except OSError:
        return b""
    finally:
        close_all([descriptor])
    return bytes(data)
