# SPDX-License-Identifier: Apache-2.0
"""A volume of Cinder on this host: how it comes and goes.

Cinder knows which logical unit a volume is, and who may have it, better than this host can:

- A volume that is migrated keeps its id and becomes another unit; so nothing that this host
  remembers of an earlier one is held against it.
- An instance that moves, and a volume that several instances have, are on two hosts at once; so
  nobody is kept from writing by a reservation.
- The portals of one unit come in whatever order the array likes; a volume that is attached stays as
  it is while its target and LUN are the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging

from fusefs.cinder.connection import Connection
from fusefs.cinder.ways import by_any_way
from fusefs.errors import NoSuchVolume, VolumeError
from fusefs.spec import VolumeSpec
from fusefs.volume.manager import VolumeManager
from fusefs.volume.status import VolumeStatus
from fusefs.volume.teardown import DetachReport
from fusefs.volume_errors import EndedWithLoss, VolumeInUse
from pyscsi_init.errors import IscsiError
from pyscsi_init.url import parse_url

log = logging.getLogger("fusefs.cinder")


async def attach(manager: VolumeManager, connection: Connection) -> VolumeStatus:
    """By the first way that answers; the same again returns the same.

    Raises: as of :meth:`VolumeManager.ensure_attached`.
    """
    present = ""
    try:
        present = (await manager.get(connection.name)).url
    except NoSuchVolume:
        # The host may have died with the volume on it, and Cinder moved it meanwhile. The ISID
        # stays: by it the target ends what is left of the session.
        await _forget(manager, connection.name, isid=False)
    for note in connection.notes:
        log.info("volume %s: %s", connection.name, note)
    return await by_any_way(
        [_as_present(spec, present) for spec in connection.specs(fencing="off")],
        lambda spec: manager.ensure_attached(spec, connection.chap),
        present=present,
    )


async def detach(manager: VolumeManager, name: str, *, force: bool) -> None:
    """In order; only if that fails, and it is wanted, by force: that may lose data.

    Raises:
        EndedWithLoss: it is gone, and something is lost: by force, or because nothing could be
            saved any more, as where another unit stands in its place.
        and what :meth:`VolumeManager.ensure_gone` raises.
    """
    try:
        report = await manager.ensure_gone(name)
    except (VolumeError, IscsiError, OSError) as error:
        if not force:
            raise
        log.warning("volume %r is ended by force, because %s", name, error)
        report = await manager.ensure_gone(name, force=True)
    await _forget(manager, name, isid=report is None or report.clean)
    if report is not None and (losses := _losses(report)):
        raise EndedWithLoss(name, losses)


async def _forget(manager: VolumeManager, name: str, *, isid: bool) -> None:
    # Another call may have attached it by now.
    with contextlib.suppress(VolumeInUse):
        await manager.forget(name, isid=isid)


def _as_present(spec: VolumeSpec, present: str) -> VolumeSpec:
    """By the portals that it has, where it is the same unit."""
    if present:
        address, now = spec.address, parse_url(present)
        if (address.target, address.lun) == (now.target, now.lun):
            return dataclasses.replace(spec, url=present)
    return spec


def _losses(report: DetachReport) -> list[str]:
    found = []
    for count, what in (
        (report.requests_in_flight, "requests had no answer"),
        (report.unflushed_writes, "writes had been answered and not been flushed"),
    ):
        if count is None:
            found.append(f"how many {what} is not known")
        elif count:
            found.append(f"{count} {what}")
    return found + report.problems
