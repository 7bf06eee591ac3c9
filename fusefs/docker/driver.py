# SPDX-License-Identifier: Apache-2.0
"""The endpoints of a volume driver: from the protocol's words to those of the volume layer.

What an engine wants of a driver and does not say: a Create is repeated with each `docker run -v`;
Mount and Unmount are counted, the same ID more than once; a Mount that fails has no Unmount; and an
Unmount that fails is not repeated. A Remove of what is not there is fine.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anyio

from fusefs.docker.callers import ASK_AGAIN_SECONDS, Callers
from fusefs.docker.options import spec_of
from fusefs.docker.patience import is_young_engine, patiently
from fusefs.docker.protocol import Answer, Endpoint, Refused
from fusefs.docker.status import status_of
from fusefs.errors import NoSuchVolume, VolumeError
from fusefs.volume.hostcalls import host_call
from fusefs.volume.known import KnownVolume, KnownVolumes
from fusefs.volume_errors import NotReleased, in_words
from pyscsi_init.errors import IscsiError

log = logging.getLogger("fusefs.docker")

OWNER = "docker"
MOUNT_SECONDS = 105.0
"""Docker gives up after 120 s; what takes longer has to be undone within the rest."""
SHORT_SECONDS = 50.0
"""Docker gives up after 60 s."""


class Driver:
    """The driver of one run directory."""

    def __init__(self, volumes: KnownVolumes, callers: Callers) -> None:
        self._volumes = volumes
        self._callers = callers
        self._noting = anyio.Lock()
        self._started = time.monotonic()
        self._owed: list[tuple[str, str]] = []
        """Volume and user of each Unmount that could not be counted: nobody asks again."""
        self.called: Callable[[str], None] = lambda _caller: None
        """Told of each caller, for those who want to know of new ones."""

    def begin(self) -> None:
        """Calls are taken from now on, those first that have waited in the socket meanwhile."""
        self._started = time.monotonic()

    def endpoints(self) -> list[Endpoint]:
        """Every call of the protocol."""
        volume = "VolumeDriver."
        return [
            Endpoint("Plugin.Activate", self.activate, SHORT_SECONDS),
            Endpoint(f"{volume}Create", self.create, SHORT_SECONDS),
            Endpoint(f"{volume}Remove", self.remove, SHORT_SECONDS),
            Endpoint(
                f"{volume}Mount",
                self.mount,
                MOUNT_SECONDS,
                undo=self.undo_mount,
                answered=self.mount_answered,
            ),
            Endpoint(f"{volume}Path", self.path, SHORT_SECONDS),
            Endpoint(f"{volume}Unmount", self.unmount, SHORT_SECONDS),
            Endpoint(f"{volume}Get", self.get, SHORT_SECONDS, late=_unknown),
            Endpoint(f"{volume}List", self.list, SHORT_SECONDS),
            Endpoint(f"{volume}Capabilities", self.capabilities, SHORT_SECONDS),
        ]

    async def activate(self, _values: Mapping[str, Any], caller: str) -> Answer:
        """What this plugin is; asked by each engine before all else."""
        self.called(caller)
        return {"Implements": ["VolumeDriver"]}

    async def capabilities(self, _values: Mapping[str, Any], _caller: str) -> Answer:
        """Global: a LUN is the same on every node, so a cluster creates a volume once."""
        return {"Capabilities": {"Scope": "global"}}

    async def create(self, values: Mapping[str, Any], _caller: str) -> Answer:
        """Define a volume; the target is not asked. The same again changes nothing, and neither
        does a name that is known, without options."""
        name, options = _text(values, "Name"), values.get("Opts") or {}
        if not isinstance(options, dict):
            raise Refused("Opts is no JSON object")
        if not options:
            try:
                await self._volumes.get(name)
            except NoSuchVolume:
                pass  # the options that are missing are told
            else:
                return {"Err": ""}
        await self._volumes.define(spec_of(name, options), owner=OWNER)
        log.info("created volume %s", name)
        return {"Err": ""}

    async def remove(self, values: Mapping[str, Any], _caller: str) -> Answer:
        """Forget a volume; what is on the LUN stays."""
        await self._volumes.remove(_text(values, "Name"))
        return {"Err": ""}

    async def mount(self, values: Mapping[str, Any], caller: str) -> Answer:
        """Count a user; the first one attaches and mounts.

        Cancellation: it is as if there had been no call.
        """
        name, user = _text(values, "Name"), _text(values, "ID")
        self.called(caller)
        may_be_again = time.monotonic() - self._started < ASK_AGAIN_SECONDS
        await self._note(self._callers.begin, name, user, caller)
        try:
            path = await self._use(name, user, caller)
        except BaseException:
            await self._drop(name, user)
            raise
        if may_be_again:
            with anyio.CancelScope(shield=True):
                try:
                    await self._count_once(name, user)
                except BaseException:
                    await self._release(values)
                    raise
        return {"Mountpoint": str(path), "Err": ""}

    async def undo_mount(self, values: Mapping[str, Any]) -> None:
        """Take back a Mount whose caller is gone."""
        await self._release(values)

    async def mount_answered(self, values: Mapping[str, Any]) -> None:
        """The engine knows of the Mount."""
        await self._note(self._callers.answered, values["Name"], values["ID"])

    async def path(self, values: Mapping[str, Any], _caller: str) -> Answer:
        """Where the volume is mounted; empty while it is not."""
        known = await self._volumes.get(_text(values, "Name"))
        return {"Mountpoint": known.mountpoint, "Err": ""}

    async def unmount(self, values: Mapping[str, Any], _caller: str) -> Answer:
        """Give a user back; the last one unmounts and logs out."""
        _text(values, "Name"), _text(values, "ID")
        await self._release(values)
        return {"Err": ""}

    async def get(self, values: Mapping[str, Any], _caller: str) -> Answer:
        """One volume with its Status.

        To dockerd every error but a broken connection means that there is none of this name, and
        `docker run -v` makes an empty local one, which the container fills. So an error is told
        only of a volume that certainly is not known; its Mount tells of all others.
        """
        name = _text(values, "Name")
        try:
            known = await self._volumes.get(name)
        except NoSuchVolume:
            raise
        except (VolumeError, IscsiError, OSError) as error:
            return _unknown(values, in_words(error))
        except Exception as error:
            log.exception("Get of volume %s: internal error", name)
            return _unknown(values, f"internal error: {type(error).__name__}: {error}")
        return {"Volume": {**_volume(known), "Status": status_of(known)}, "Err": ""}

    async def list(self, _values: Mapping[str, Any], _caller: str) -> Answer:
        """Every volume, without Status; also one that newer code has defined, which has a name."""
        found = [_volume(known) for known in await self._volumes.list()]
        found += [{"Name": name} for name in await self._volumes.unusable()]
        return {"Volumes": found, "Err": ""}

    async def release_owed(self) -> None:
        """Give back what could not be given back when the engine asked for it, as on a full disk.
        Our successor finds it by the notes of who took it."""
        owed, self._owed = self._owed, []
        for name, user in owed:
            try:
                await self._give_back(name, user)
            except (VolumeError, IscsiError, OSError) as error:
                log.info("volume %s: %s", name, error)

    # -- inside -----------------------------------------------------------------------------------

    async def _use(self, name: str, user: str, caller: str) -> Path:
        use = functools.partial(self._volumes.use, name, user)
        if await host_call(functools.partial(is_young_engine, caller)):
            return await patiently(use, name)
        return await use()

    async def _release(self, values: Mapping[str, Any]) -> None:
        # The engine does not ask again, whatever comes of it.
        await self._give_back(str(values["Name"]), str(values["ID"]))

    async def _give_back(self, name: str, user: str) -> None:
        try:
            await self._volumes.release(name, user)
        except NotReleased:
            self._owed.append((name, user))
            raise
        except BaseException:
            await self._drop(name, user)
            raise
        await self._drop(name, user)

    async def _drop(self, name: str, user: str) -> None:
        try:
            await self._note(self._callers.drop, name, user)
        except OSError as error:  # the count says it too, and is written
            log.warning("volume %s: a note of a Mount stays: %s", name, in_words(error))

    async def _count_once(self, name: str, user: str) -> None:
        """A Mount that an earlier process of ours was cut off in is this one, asked again.

        Only while dockerd asks again. Our process may also have died after it had answered and
        before that was noted; then a later Mount with the ID is another one, as of `docker cp`.
        """
        async with self._noting:
            calls = await host_call(functools.partial(self._callers.calls, name))
            cut_off = [call for call in calls if call.id == user and call.was_cut_off]
            if not cut_off:
                return
            others = sum(call.id == user for call in calls) - len(cut_off)
            known = await self._volumes.get(name)
            if known.problem:
                raise VolumeError(known.problem)
            counted = known.users.get(user, 0)
            for _ in range(min(len(cut_off), counted - others)):
                await self._volumes.release(name, user)
            await host_call(functools.partial(self._callers.discard, name, cut_off))

    async def _note(self, function: Callable[..., None], *arguments: str) -> None:
        with anyio.CancelScope(shield=True):
            async with self._noting:
                await host_call(functools.partial(function, *arguments))


def _text(values: Mapping[str, Any], key: str) -> str:
    text = values.get(key)
    if not isinstance(text, str) or not text:
        raise Refused(f"the request has no {key}")
    return text


def _unknown(
    values: Mapping[str, Any], why: str = "this host's files of volumes do not answer"
) -> Answer:
    """Of a volume that may be there: all that is certain."""
    status = {"state": "failed", "last_error": why}
    return {"Volume": {"Name": values["Name"], "Mountpoint": "", "Status": status}, "Err": ""}


def _volume(known: KnownVolume) -> Answer:
    return {
        "Name": known.name,
        "Mountpoint": known.mountpoint,
        "CreatedAt": known.definition.created_at,
    }
