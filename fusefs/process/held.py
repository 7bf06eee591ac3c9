# SPDX-License-Identifier: Apache-2.0
"""What the holder has of a volume, and when its worker is followed by another.

A worker counts as dead when its pidfd says so, and not before. Then a native volume that was served
once, and that nobody is ending, gets a successor with the same document and the same descriptors:
at once, or after a while if workers die again and again. The pulse (:mod:`fusefs.process.pulse`)
tells the rest: that the loop turns, that the volume is served, that it is over.

A libfuse volume has no successor: its descriptors are closed, so that the kernel ends the
connection, and the record stays until it is forgotten, to say why.

INVARIANT: nothing but the standard library, and no I/O on a volume.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fusefs.process import pulse
from fusefs.process.loop import Loop, Timer
from fusefs.process.packets import close_all
from fusefs.process.pids import WorkerIdentity, end_of
from fusefs.process.restarts import Restarts
from fusefs.process.zygotes import ForkRequest, Zygotes

log = logging.getLogger("fusefs.holder")

FIRST_BEAT_S = 60.0
"""From the fork to the first beat. What is done before it is short; a host may be slow."""
OVERSLEPT_S = 3.0
"""If the holder itself did not run for so long, silence proves nothing."""
LONGEST_LINE = 65536
_ENDED = "it ended"
_NOT_STARTED = "; no worker could be started: "

Told = Callable[[str], None]


@dataclass(slots=True)
class HeldVolume:
    """One volume. ``state``: starting, serving, waiting (for the next worker), over, dead."""

    name: str
    document: bytes = field(repr=False)
    fuse: int
    slots: int
    log: int
    native: bool
    directory: str = ""
    """The name of its directory, which is the encoded name."""
    pulse: int = -1
    state: str = "starting"
    generation: int = 1
    worker: WorkerIdentity | None = None
    pidfd: int = -1
    ready_at: float | None = None
    heard_at: float = 0.0
    has_beaten: bool = False
    was_ready: bool = False
    restarts: Restarts = field(default_factory=Restarts)
    last_death: str = ""
    next_at: float | None = None
    ending: object = None
    """Whoever is ending it; nobody follows its worker while this is set."""
    told: Told | None = None
    """Who waits for a successor to be ready: called with the error, or with nothing."""
    asker: object = None
    """The peer behind ``told``."""
    making_room: bool = False
    ready_pipe: int = -1
    ready_line: bytes = b""
    complaint: str = ""
    """Why the present worker could not do it, in its own words."""
    timer: Timer | None = None
    exit_status: int | None = None
    """Of the present worker, should its parent tell before the pidfd does."""

    def facts(self, now: float) -> dict[str, Any]:
        """For ``status``; no secret in it."""
        worker = self.worker
        return {
            "state": self.state,
            "pid": worker.pid if worker else 0,
            "start_time": worker.start_time if worker else 0,
            "generation": self.generation,
            "restarts": self.restarts.count,
            "last_death": self.last_death,
            "restart_in_s": None if self.next_at is None else max(0.0, self.next_at - now),
            "ending": self.ending is not None,
            "native": self.native,
        }

    def descriptors(self) -> dict[str, int]:
        """What a worker of it gets."""
        named = {"fuse": self.fuse, "slots": self.slots, "log": self.log, "pulse": self.pulse}
        return {name: fd for name, fd in named.items() if fd >= 0}


class Keeping:
    """The volumes of a holder."""

    def __init__(
        self, loop: Loop, zygotes: Zygotes, *, silence_s: float, changed: Callable[[], None]
    ) -> None:
        """``changed`` is called when a volume was forgotten: it may have been the last."""
        self._loop = loop
        self._zygotes = zygotes
        self._silence_s = silence_s
        self._changed = changed
        self.volumes: dict[str, HeldVolume] = {}
        self._looked_at = loop.now()
        self._look()

    # -- workers ----------------------------------------------------------------------------------

    def start(self, volume: HeldVolume, ready: int, forked: Callable[[], None], told: Told) -> None:
        """Keep a new volume and start its first worker; ``ready`` is closed when that is done."""
        self.volumes[volume.name] = volume
        volume.pulse = pulse.make_pulse()
        self._fork(volume, ready, forked, told)

    def _fork(self, volume: HeldVolume, ready: int, forked: Callable[[], None], told: Told) -> None:
        def began(worker: WorkerIdentity, pidfd: int) -> None:
            os.close(ready)
            volume.worker = worker
            self._attend(volume, pidfd)
            forked()

        def failed(why: str) -> None:
            os.close(ready)
            told(why)

        volume.state, volume.next_at, volume.timer = "starting", None, None
        volume.complaint, volume.ready_at, volume.has_beaten = "", None, False
        volume.exit_status = None
        values = {"name": volume.name, "generation": volume.generation}
        self._zygotes.fork(
            ForkRequest(
                values,
                volume.document,
                {**volume.descriptors(), "ready": ready},
                began,
                failed,
                lambda: self.volumes.get(volume.name) is volume,
            )
        )

    def adopt(self, volume: HeldVolume, pidfd: int, *, serving: bool) -> None:
        """Keep a volume whose worker runs already."""
        self.volumes[volume.name] = volume
        if volume.pulse < 0:
            volume.pulse = pulse.make_pulse()
        if serving:
            volume.state, volume.was_ready = "serving", True
            volume.ready_at = self._loop.now()
        self._attend(volume, pidfd)

    def prepare(self) -> None:
        """There are volumes: have a zygote before one of them needs it."""
        self._zygotes.prepare()

    def _attend(self, volume: HeldVolume, pidfd: int) -> None:
        volume.pidfd = pidfd
        volume.heard_at = self._loop.now()
        self._loop.watch(volume.pulse, lambda: self._hear(volume))
        self._loop.watch(pidfd, lambda: self._died(volume))

    def _hear(self, volume: HeldVolume) -> None:
        words = pulse.hear(volume.pulse)
        if not words:
            return
        volume.heard_at, volume.has_beaten = self._loop.now(), True
        if pulse.heard(words, pulse.READY):
            self._serves(volume)
        if pulse.heard(words, pulse.OVER):
            volume.state = "over"
        if pulse.heard(words, pulse.HANDED_OVER):
            volume.making_room = True

    def _serves(self, volume: HeldVolume) -> None:
        volume.was_ready = True
        volume.ready_at = self._loop.now()
        if volume.state == "starting":
            volume.state = "serving"
        if volume.generation > 1:
            log.info("volume %s: worker %s serves", volume.name, volume.worker)
        self._tell(volume, "")

    def _tell(self, volume: HeldVolume, error: str) -> None:
        told, volume.told = volume.told, None
        if told is not None:
            told(error)

    def _died(self, volume: HeldVolume) -> None:
        self._hear(volume)
        self._loop.unwatch(volume.pulse)
        self._loop.unwatch(volume.pidfd)
        status = _exit_status(volume.pidfd)
        os.close(volume.pidfd)
        volume.pidfd = -1
        if volume.ready_pipe >= 0:
            self._read_ready(volume)
            self._close_ready_pipe(volume)
        dead, volume.worker = volume.worker, None
        if status is None:
            status = volume.exit_status
        how = end_of(status) if status is not None else _ENDED
        if volume.complaint:
            how = f"{how}: {volume.complaint}"
        why = f"worker {dead.pid if dead else 0}: {how}"
        if volume.state == "over":
            log.info("volume %s: over", volume.name)
            self._close(volume)
        elif volume.ending is not None:
            volume.state, volume.last_death = "dead", why
            self._close(volume)
        elif not volume.was_ready:
            # Whoever attaches hears of it by the ready pipe.
            self.forget(volume.name)
        elif not volume.native:
            volume.state, volume.last_death = "dead", why
            log.error("volume %s: %s; nobody follows it", volume.name, why)
            self._close(volume)
        else:
            self._follow(volume, why)

    def _follow(self, volume: HeldVolume, why: str) -> None:
        now = self._loop.now()
        volume.generation += 1
        if volume.making_room:
            volume.making_room = False
            delay = 0.0
        else:
            volume.last_death = why
            delay = volume.restarts.died(now, volume.ready_at)
            log.warning("volume %s: %s; the next in %g s", volume.name, why, delay)
        if delay:
            volume.state, volume.next_at = "waiting", now + delay
            volume.timer = self._loop.call_in(delay, lambda: self._succeed(volume))
        else:
            self._succeed(volume)

    def _succeed(self, volume: HeldVolume) -> None:
        def failed(why: str) -> None:
            died = volume.last_death.partition(_NOT_STARTED)[0]
            volume.last_death = f"{died}{_NOT_STARTED}{why}"
            delay = volume.restarts.died(self._loop.now(), None)
            volume.state, volume.next_at = "waiting", self._loop.now() + delay
            volume.timer = self._loop.call_in(delay, lambda: self._succeed(volume))
            self._tell(volume, volume.last_death)

        def listen() -> None:
            volume.ready_pipe, volume.ready_line = read_end, b""
            os.set_blocking(read_end, False)
            self._loop.watch(read_end, lambda: self._read_ready(volume))

        if self.volumes.get(volume.name) is not volume or volume.ending is not None:
            return
        read_end, write_end = os.pipe2(os.O_CLOEXEC)

        def failed_and_closed(why: str) -> None:
            os.close(read_end)
            failed(why)

        self._fork(volume, write_end, listen, failed_and_closed)

    def _read_ready(self, volume: HeldVolume) -> None:
        try:
            data = os.read(volume.ready_pipe, LONGEST_LINE)
        except BlockingIOError:
            return
        *lines, volume.ready_line = (volume.ready_line + data).split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError, AttributeError):
                document = json.loads(line)
                if document.get("ok") is False:
                    volume.complaint = str((document.get("error") or {}).get("message"))[:500]
                    self._tell(volume, volume.complaint)
        if not data or len(volume.ready_line) > LONGEST_LINE:
            self._close_ready_pipe(volume)

    def _close_ready_pipe(self, volume: HeldVolume) -> None:
        if volume.ready_pipe >= 0:
            self._loop.unwatch(volume.ready_pipe)
            os.close(volume.ready_pipe)
            volume.ready_pipe = -1

    def exited(self, pid: int, status: int) -> None:
        """The worker ``pid`` was reaped: how it ended, before or after its pidfd told that."""
        for volume in self.volumes.values():
            if volume.worker is not None and volume.worker.pid == pid:
                volume.exit_status = status
            elif volume.last_death.startswith(f"worker {pid}: {_ENDED}"):
                volume.last_death = volume.last_death.replace(_ENDED, end_of(status), 1)
                log.info("volume %s: %s", volume.name, volume.last_death)

    # -- hung workers -----------------------------------------------------------------------------

    def _look(self) -> None:
        now = self._loop.now()
        overslept = now - self._looked_at > OVERSLEPT_S
        self._looked_at = now
        for volume in self.volumes.values():
            if volume.pidfd < 0:
                continue
            if overslept:
                volume.heard_at = now
            limit = self._silence_s if volume.has_beaten else max(FIRST_BEAT_S, self._silence_s)
            if now - volume.heard_at > limit:
                log.error("volume %s: no beat for %g s: killed", volume.name, limit)
                volume.complaint = f"its event loop did not turn for {limit:g} s"
                volume.heard_at = now
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(volume.pidfd, signal.SIGKILL)
        self._loop.call_in(pulse.INTERVAL_S, self._look)

    # -- being told -------------------------------------------------------------------------------

    def end(self, volume: HeldVolume, by: object) -> None:
        """Nobody follows its worker from now on, until :meth:`stay` or :meth:`forget`."""
        volume.ending = by
        if volume.timer is not None:
            volume.timer.cancel()
            volume.timer = None
        if volume.state == "waiting" and volume.pidfd < 0:
            volume.next_at = None

    def stay(self, volume: HeldVolume) -> None:
        """It was not ended after all; where its worker died meanwhile, the next one starts."""
        volume.ending = None
        if volume.state == "waiting":
            self._succeed(volume)

    def forget(self, name: str) -> None:
        """Let go of a volume; a no-op where there is none."""
        volume = self.volumes.pop(name, None)
        if volume is None:
            return
        if volume.timer is not None:
            volume.timer.cancel()
        if volume.pidfd >= 0:
            # Whoever forgets it has ended its worker; one that was born meanwhile must not go on,
            # with nobody who knows of it.
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(volume.pidfd, signal.SIGKILL)
            self._loop.unwatch(volume.pidfd)
            os.close(volume.pidfd)
            volume.pidfd = -1
        self._close_ready_pipe(volume)
        self._close(volume)
        self._changed()

    def _close(self, volume: HeldVolume) -> None:
        """Close what the kernel sees: without a reader the connection ends."""
        if volume.pulse >= 0:
            self._loop.unwatch(volume.pulse)
        close_all([volume.fuse, volume.slots, volume.log, volume.pulse])
        volume.fuse = volume.slots = volume.log = volume.pulse = -1
        volume.document = b""
        self._tell(volume, "the volume has ended")

    def facts(self) -> Mapping[str, Any]:
        """All volumes, by name."""
        now = self._loop.now()
        return {name: volume.facts(now) for name, volume in self.volumes.items()}


def _exit_status(pidfd: int) -> int | None:
    """The wait status of a dead child; None of a process that is somebody else's to reap."""
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except OSError:
        return None
    if result is None:
        return None
    code = result.si_status
    return code << 8 if result.si_code == os.CLD_EXITED else code
