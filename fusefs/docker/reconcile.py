# SPDX-License-Identifier: Apache-2.0
"""Giving back what an engine took and will not give back itself, because it died, or we did.

A dockerd that was killed, without live-restore, has no containers any more when it comes back, and
sends no Unmount for them. And where nobody holds the plugin's socket for some seconds, dockerd
gives up its Unmount. What no container uses is then released here. Being wrong the other way,
taking a volume from a container that runs, would be far worse; so a Mount is given back only if

- the dockerd that made it is dead (of a container that is being started, dockerd is alive and in
  the middle of it), or the process of ours that took it is: then dockerd may have given up an
  Unmount that nobody took, or not have asked again for a Mount that was cut off;
- in this second case dockerd is in the middle of no start that we could know of: it had its time to
  ask again, and no Mount of it was under way at a look or came between two;
- a Docker Engine answers, and none of its containers that run has the volume;
- both were so at two looks, SETTLE_SECONDS apart.

And what is mounted in a container is kept, whatever an engine says. Podman's containers are in no
list that could be asked for, so what Podman took is never given back here. Where no engine can be
asked, everything is kept.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import anyio.lowlevel

from fusefs.docker.callers import ASK_AGAIN_SECONDS, Call, Callers
from fusefs.docker.engine import Engine, EngineSilent
from fusefs.errors import NoSuchVolume, VolumeError
from fusefs.host.busy import device_mounts
from fusefs.volume.hostcalls import host_call
from fusefs.volume.known import KnownVolumes
from pyscsi_init.errors import IscsiError

log = logging.getLogger("fusefs.docker")

SETTLE_SECONDS = 15.0
PERIOD_SECONDS = 60.0
"""Between two looks."""
NOBODY = ""
"""No engine's ID."""


class Reconciler:
    """Looks when it is asked to, and every PERIOD_SECONDS."""

    def __init__(
        self,
        volumes: KnownVolumes,
        callers: Callers,
        engine: Engine,
        *,
        settle_s: float = SETTLE_SECONDS,
        period_s: float = PERIOD_SECONDS,
    ) -> None:
        self._volumes = volumes
        self._callers = callers
        self._engine = engine
        self._settle_s = settle_s
        self._period_s = period_s
        self._asked = anyio.Event()
        self._known: set[str] = set()
        self._suspects: dict[tuple[str, Call], float] = {}
        self._silent = ""
        self._started = time.monotonic()
        self._begun = callers.begun
        self.release_owed: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
        """Called with each look: for what could not be given back when it was asked for."""

    def ask(self) -> None:
        """Have it look now."""
        self._asked.set()

    def called(self, caller: str) -> None:
        """A process asks the driver: if it is a new one, an engine may have been restarted."""
        if caller not in self._known:
            self._known.add(caller)
            self.ask()

    async def run(self) -> None:
        """Look, again and again."""
        self._started = time.monotonic()
        while True:
            self._asked = anyio.Event()
            try:
                await self.release_owed()
                await self.take_down_unused()
                await self.look()
            except EngineSilent as error:
                if str(error) != self._silent:
                    log.info("%s; what it took is kept", error)
                self._silent = str(error)
            except (VolumeError, IscsiError, OSError) as error:
                # One volume that cannot be looked at, or just goes, must not end the server.
                log.warning("not all could be looked at, the next look may: %s", error)
            with anyio.move_on_after(self._settle_s if self._suspects else self._period_s):
                await self._asked.wait()

    async def look(self) -> None:
        """One look: release what has been found abandoned for long enough.

        Raises:
            EngineSilent: nothing is known of the containers, and nothing was done.
        """
        abandoned = await host_call(self._abandoned)
        if not abandoned:
            self._suspects.clear()
            return
        try:
            in_use = await self._engine.volumes_in_use()
        except EngineSilent:
            self._suspects.clear()
            raise
        abandoned = [(v, call) for v, call in abandoned if not await self._is_mounted_elsewhere(v)]
        now = anyio.current_time()
        found = [(volume, call) for volume, call in abandoned if volume not in in_use]
        self._suspects = {each: self._suspects.get(each, now) for each in found}
        for (volume, call), since in list(self._suspects.items()):
            if now - since >= self._settle_s:
                await self._give_back(volume, call)

    async def _is_mounted_elsewhere(self, volume: str) -> bool:
        """Whether a process in another mount namespace, such as a container's, has it mounted."""
        try:
            known = await self._volumes.get(volume)
        except NoSuchVolume:
            return False
        except VolumeError as error:  # a damaged definition: nothing is known, so it is kept
            log.info("volume %s is kept: %s", volume, error)
            return True
        if known.status is None or not known.status.loop:
            return False
        device, here = known.status.loop, known.mountpoint
        return await host_call(functools.partial(_in_other_namespaces, device, here))

    async def take_down_unused(self) -> None:
        """A volume whose last user is gone and that could not be taken down then, as while its
        target was away: try again."""
        for known in await self._volumes.list():
            if known.status is None or known.users or known.status.state == "recovering":
                continue
            if known.problem:
                continue  # somebody may use it
            try:
                await self._volumes.release(known.name, NOBODY)
            except (VolumeError, IscsiError, OSError) as error:
                log.info("volume %s stays, although nobody uses it: %s", known.name, error)

    def _abandoned(self) -> list[tuple[str, Call]]:
        """What those who made it will not give back. Blocks."""
        waited = time.monotonic() - self._started >= ASK_AGAIN_SECONDS
        # A start that mounts several volumes may have had its first Mount from our predecessor.
        begun, self._begun = self._begun, self._callers.begun
        starts = self._begun != begun or self._callers.is_mounting()
        return [
            (volume, call)
            for volume in self._callers.volumes()
            for call in self._callers.calls(volume)
            if call.is_orphan or (waited and not starts and call.is_engines and call.outlived_us)
        ]

    async def _give_back(self, volume: str, call: Call) -> None:
        log.warning(
            "volume %s: no container of Docker uses it, and nobody will give back what was mounted "
            "for %.12s: released",
            volume,
            call.id,
        )
        try:
            await self._volumes.release(volume, call.id)
        except (VolumeError, IscsiError, OSError) as error:
            log.warning("volume %s: %s", volume, error)
            return
        self._suspects.pop((volume, call), None)
        await host_call(functools.partial(self._callers.discard, volume, [call]))


def _in_other_namespaces(device: str, mountpoint: str) -> bool:
    """Whether another namespace has the device somewhere else than here: a service of the host that
    has a namespace of its own has a copy of our mount, which goes when ours does. Blocks."""
    number = Path(device).stat().st_rdev
    places = device_mounts(os.major(number), os.minor(number))
    return any(
        "(namespace of" in place and not place.startswith(f"{mountpoint} (") for place in places
    )
