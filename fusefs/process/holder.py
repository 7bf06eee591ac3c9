# SPDX-License-Identifier: Apache-2.0
"""The process that outlives the workers: ``python -m fusefs.process.holder``.

One for each run directory, as long as there are volumes. It keeps what a volume's next worker
needs (:mod:`fusefs.process.held`), has a zygote that forks them, and answers on a socket in the run
directory, to root alone, without ever waiting for a peer. It does no I/O on a volume, and it is not
needed for any: when it dies, the workers go on, and its successor asks them for copies of what they
have (:mod:`fusefs.process.rebuilding`). It may be process 1, so it reaps whatever is left to it.

Its configuration comes in on standard input: the run directory, the interpreter and the folders of
the code, the environment of what it starts. With ``tended_by``, the name of whoever sees that there
is always a holder, it stays without a volume too. No secret is in it.

INVARIANT: nothing but the standard library and files of ours that need nothing else: what is not in
this process cannot make it fail, and its memory is not worth a thought.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any

from fusefs.process import places
from fusefs.process.bounded_log import BoundedHandler
from fusefs.process.held import HeldVolume, Keeping
from fusefs.process.loop import Loop
from fusefs.process.orphans import adopt_orphans
from fusefs.process.packets import Packet, close_all, encode
from fusefs.process.peers import Peer, Peers
from fusefs.process.pulse import SILENCE_S
from fusefs.process.rebuilding import Rebuilding
from fusefs.process.zygotes import CONTROL_FD, Zygotes

log = logging.getLogger("fusefs.holder")

IDLE_S = 0.5
"""A holder that nobody asks for anything, and that has no volume, ends: its command died."""
LOCK_PATIENCE_S = 5.0
HAND_OVER_S = 5.0


class Holder:
    """The requests; what they do is done by :class:`Keeping` and :class:`Zygotes`."""

    def __init__(self, configuration: Mapping[str, Any], *, loop: Loop | None = None) -> None:
        self.loop = loop or Loop()
        self._configuration = configuration
        self._tended_by = str(configuration.get("tended_by") or "")
        self._directory = os.open(configuration["run"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._lock = -1
        path = places.holder_path(self._directory)
        self._peers = Peers(self.loop, path, self._serve, self._peer_left)
        self.zygotes = Zygotes(self.loop, configuration, self._exited)
        self.keeping = Keeping(
            self.loop,
            self.zygotes,
            silence_s=float(configuration.get("silence_s") or SILENCE_S),
            changed=self._end_if_idle,
        )
        self._rebuilding = Rebuilding(self.loop, self.keeping, configuration["run"])

    # -- life -------------------------------------------------------------------------------------

    def run(self, zygote: tuple[socket.socket, int] | None = None) -> bool:
        """Hold until there is nothing to hold; False where another holder is at work."""
        given: list[Packet] | None = []
        if self._configuration.get("take_over"):
            given = self._rebuilding.ask_the_holder(places.holder_path(self._directory))
        if given is None or not self._get_lock():
            return False
        self._peers.open()
        if zygote is not None:
            self.zygotes.adopt(*zygote)
        self._rebuilding.take(given, self.zygotes.adopt)
        if self.keeping.volumes:
            self.keeping.prepare()
        self._rebuilding.begin()
        log.info("holder %d: %d volumes", os.getpid(), len(self.keeping.volumes))
        self.loop.call_in(IDLE_S, self._idle)
        self._running = True
        while self._running:
            self.loop.turn()
            self._reap()
        self._close()
        return True

    def _get_lock(self) -> bool:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._lock = os.open(places.LOCK_NAME, flags, 0o600, dir_fd=self._directory)
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if self._is_served() or time.monotonic() > deadline:
                    return False
                time.sleep(0.005)
            else:
                return True

    def _is_served(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
            try:
                other.connect(places.holder_path(self._directory))
            except OSError:
                return False
        return not self._configuration.get("take_over")

    def _idle(self) -> None:
        if not len(self._peers):
            self._end_if_idle()
        self.loop.call_in(IDLE_S, self._idle)

    def _end_if_idle(self) -> None:
        """End, unless there is a volume, or somebody who is about to bring one."""
        if self.keeping.volumes or self.zygotes.is_busy or self._tended_by:
            return
        if not (self._rebuilding.is_busy or self._rebuilding.may_find_more):
            self._running = False

    def _close(self) -> None:
        self._peers.close()
        self.zygotes.end()
        log.info("holder %d ends", os.getpid())
        close_all([self._lock, self._directory])

    def _reap(self) -> None:
        """Collect our zygotes, and what was left to us by processes that died."""
        while True:
            try:
                result = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
            except ChildProcessError:
                return
            if result is None:
                return
            code = result.si_status
            status = code << 8 if result.si_code == os.CLD_EXITED else code
            self.zygotes.reaped(result.si_pid, status)
            self._exited(result.si_pid, status)

    def _exited(self, pid: int, status: int) -> None:
        self.keeping.exited(pid, status)

    def _peer_left(self, peer: Peer) -> None:
        for volume in list(self.keeping.volumes.values()):
            if volume.ending is peer:
                self.keeping.stay(volume)
            if volume.asker is peer:
                volume.told = volume.asker = None

    # -- requests ---------------------------------------------------------------------------------

    def _serve(self, peer: Peer, packet: Packet) -> None:
        requests = {
            "start": self._on_start,
            "ending": self._on_ending,
            "forget": self._on_forget,
            "status": self._on_status,
            "successor": self._on_successor,
            "zygote": self._on_zygote,
            "hand-over": self._on_hand_over,
            "untended": self._on_untended,
        }
        request = requests.get(str(packet.values.get("request")))
        if request is None:
            self._peers.refuse(peer, "unknown request")
        else:
            request(peer, packet)

    def _on_start(self, peer: Peer, packet: Packet) -> None:
        name = str(packet.values["name"])
        old = self.keeping.volumes.get(name)
        if old is not None and old.pidfd >= 0:
            self._peers.refuse(peer, "it has a worker")
            return
        self.keeping.forget(name)
        self._rebuilding.expect_no_more(name)
        ready = packet.take("ready")
        volume = HeldVolume(
            name,
            packet.payload,
            packet.take("fuse"),
            packet.take("slots"),
            packet.take("log"),
            native=bool(packet.values["native"]),
            directory=str(packet.values["directory"]),
        )

        def forked() -> None:
            worker = volume.worker
            assert worker is not None  # noqa: S101
            self._peers.answer(peer, {"pid": worker.pid, "start_time": worker.start_time})

        def failed(why: str) -> None:
            self._peers.refuse(peer, why)
            if self.keeping.volumes.get(name) is volume:
                self.keeping.forget(name)

        self.keeping.start(volume, ready, forked, failed)

    def _volume(self, packet: Packet) -> HeldVolume | None:
        return self.keeping.volumes.get(str(packet.values.get("name")))

    def _on_ending(self, peer: Peer, packet: Packet) -> None:
        """Until the peer goes away, or forgets the volume, its worker has no successor."""
        volume = self._volume(packet)
        if volume is not None:
            self.keeping.end(volume, peer)
        self._peers.answer(peer, {})

    def _on_forget(self, peer: Peer, packet: Packet) -> None:
        name = str(packet.values["name"])
        self._rebuilding.expect_no_more(name)
        self.keeping.forget(name)
        self._end_if_idle()
        self._peers.answer(peer, {"pid": os.getpid(), "ends": not self._running})

    def _on_status(self, peer: Peer, _packet: Packet) -> None:
        """One packet for each volume, then one for the rest."""
        for name, facts in self.keeping.facts().items():
            self._peers.send(peer, {"volume": name, "facts": facts})
        zygote = self.zygotes.current
        self._peers.answer(
            peer,
            {
                "pid": os.getpid(),
                "zygote_pid": zygote.pid if zygote else 0,
                "last_zygote_death": self.zygotes.last_death,
                "notes": list(self._configuration.get("notes") or ()),
                "tended_by": self._tended_by,
                "asking": self._rebuilding.waits_for(),
            },
        )

    def _on_successor(self, peer: Peer, packet: Packet) -> None:
        """Answer when the next worker of a volume serves."""
        volume = self._volume(packet)
        if (
            volume is None
            or not volume.native
            or volume.told is not None
            or volume.ending is not None
            or volume.pidfd < 0
        ):
            self._peers.refuse(peer, "the holder has no worker of it that could be replaced")
            return
        if packet.payload:  # only what the next workers log in with; this one goes on as it is
            document = json.loads(volume.document) | json.loads(packet.payload)
            volume.document = json.dumps(document, separators=(",", ":")).encode() + b"\n"
        self._peers.send(peer, {"noted": True, "credentials": True})

        def told(error: str) -> None:
            if error:
                self._peers.refuse(peer, error)
            else:
                self._peers.answer(peer, volume.facts(self.loop.now()))

        volume.told, volume.asker = told, peer

    def _on_zygote(self, peer: Peer, packet: Packet) -> None:
        """Start a zygote from other code; workers come from it as soon as it is ready."""
        names = ("python", "roots", "environment")
        configuration = {name: packet.values[name] for name in names}

        def told(error: str) -> None:
            if error:
                self._peers.refuse(peer, error)
            else:
                self.zygotes.configuration.update(configuration)
                zygote = self.zygotes.current
                self._peers.answer(peer, {"pid": zygote.pid if zygote else 0})

        self.zygotes.start(configuration, told)

    def _on_untended(self, peer: Peer, packet: Packet) -> None:
        """Whoever tends us ends: from now on we end with the last volume."""
        if packet.values.get("by") == self._tended_by:
            self._tended_by = ""
            self.zygotes.reconfigure(tended_by="")
            self._end_if_idle()
        self._peers.answer(peer, {})

    def _on_hand_over(self, peer: Peer, _packet: Packet) -> None:
        """Give everything to the holder that asks, and end."""
        if self.zygotes.is_busy or self._rebuilding.is_busy:
            self._peers.refuse(peer, "a worker is being started; try again")
            return
        # The one time that a peer is waited for, within a limit: it takes our place.
        peer.connection.settimeout(HAND_OVER_S)
        self._rebuilding.give(peer.outbox)
        zygote = self.zygotes.current
        if zygote is not None and zygote.ready_at is not None:
            values = {"zygote": zygote.pid, "descriptors": ["zygote"]}
            peer.outbox.put(values, descriptors=[zygote.connection.fileno()])
        peer.outbox.put({"done": True})
        log.info("holder %d has handed over", os.getpid())
        # At once and without a word to anybody: nothing of it is ours any more.
        os._exit(0)


# -- the process ----------------------------------------------------------------------------------


def _read_configuration() -> dict[str, Any]:
    data = bytearray()
    while chunk := os.read(0, 65536):
        data += chunk
    values = json.loads(bytes(data))
    assert isinstance(values, dict)  # noqa: S101
    return values


def main() -> int:
    """Run a holder in this process; as another than process 1, in a child that nobody waits for."""
    configuration = _read_configuration()
    if os.getpid() != 1:
        if os.fork():
            os._exit(0)
        os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        # The volumes end by their own commands. A service manager that wants more kills.
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o077)
    os.chdir("/")
    # Five descriptors for each volume: the usual limit of 1024 would end with the 200th.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        handlers=[BoundedHandler(sys.stderr.fileno())],
    )
    adopt_orphans()
    zygote = None
    if configuration.get("adopt"):
        zygote = (socket.socket(fileno=CONTROL_FD), int(configuration["adopt"]))
        os.set_inheritable(CONTROL_FD, False)
    if not Holder(configuration).run(zygote) and zygote is not None:
        # Another holder is at work, and has a zygote.
        with contextlib.suppress(OSError):
            zygote[0].send(encode({"end": True}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
