# SPDX-License-Identifier: Apache-2.0
"""The provisioner ``tgt``: makes units on a tgt that runs beside it, for development and CI.

Each volume is a target of its own with one disk, whose file is called as the claim: by these two
names everything is found again after a crash at any step. A file is made for one claim and removed
with it, so no data passes from one volume to the next. There is no CHAP, because tgtadm takes
secrets as arguments only, which everybody on the machine can read.
"""

# ruff: noqa: ARG002 - the signatures are the interface's; there are no sessions to log in to

from __future__ import annotations

import contextlib
import errno
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fusefs.errors import CallFailed, InvalidSpec
from fusefs.host.tgtadm import LUN, TgtAdmin
from fusefs.volume.claims import (
    MAKING,
    READY,
    RELEASING,
    Claim,
    ClaimingProvisioner,
    Claims,
    new_claim_id,
)
from fusefs.volume.hostcalls import host_call
from fusefs.volume.provision import (
    Capacity,
    ClaimInUse,
    LunLost,
    NoSpaceLeft,
    ProvisionedLun,
    SizeNotPossible,
    SizeRange,
)
from pyscsi_init.names import Portal
from pyscsi_init.secret import Chap
from pyscsi_init.url import IscsiUrl, parse_url

CONTROL_PORT, DIRECTORY, PORTAL = "tgtControlPort", "tgtDirectory", "targetPortal"
MAX_CONTROL_PORT = 32767
TARGET_PREFIX = "iqn.2026-11.io.pyscsi-init"
DEFAULT_BYTES = 1 << 30
GRANULARITY = 4096
SMALLEST = 1 << 20
LARGEST = 1 << 43


@dataclass(frozen=True, slots=True)
class _Place:
    admin: TgtAdmin
    directory: Path
    portal: Portal

    def file(self, claim: Claim) -> Path:
        return self.directory / f"{claim.claim_id}.img"


class TgtProvisioner(ClaimingProvisioner):
    """See :class:`fusefs.volume.provision.Provisioner`."""

    name = "tgt"

    def __init__(self, directory: Path) -> None:
        """``directory`` holds the claims; nothing is touched before the first call."""
        super().__init__(Claims(directory))

    async def create(
        self,
        name: str,
        size: SizeRange,
        parameters: Mapping[str, str],
        labels: Mapping[str, str],
        credentials: Chap | None = None,
    ) -> ProvisionedLun:
        """See :class:`Provisioner`. Called again for a volume that exists, it is put back into a
        tgt that was restarted."""
        place = _read_parameters(parameters)
        if credentials is not None:
            raise InvalidSpec(
                "secrets",
                None,
                "were given, and provisioner tgt makes targets without CHAP",
                remedy="leave csi.storage.k8s.io/provisioner-secret-name out",
            )
        wanted = _rounded(size)
        async with self._claims.deciding():
            claim = await host_call(functools.partial(self._claims.of_name, name))
            if claim is not None and claim.phase == RELEASING:
                # Where it was, which need not be where it is wanted now.
                await self._remove(claim, _read_parameters(claim.parameters))
                claim = None
            if claim is None:
                claim = await self._claim(name, wanted, place, parameters, labels)
            claim.check(size, parameters, labels)
            if claim.phase == READY:
                await host_call(functools.partial(_require_file, place, claim))
            await host_call(functools.partial(_make, place, claim))
            if claim.phase != READY:
                claim = await self._write(claim, phase=READY)
        return claim.lun()

    async def delete(self, claim_id: str, credentials: Chap | None = None) -> None:
        """See :class:`Provisioner`."""
        async with self._claims.deciding():
            claim = await host_call(functools.partial(self._claims.find, claim_id))
            if claim is not None:
                await self._remove(claim, _read_parameters(claim.parameters))

    async def capacity(self, parameters: Mapping[str, str]) -> Capacity:
        """See :class:`Provisioner`."""
        place = _read_parameters(parameters)
        free = await host_call(functools.partial(self._free, place))
        return Capacity(free, largest=min(free, LARGEST), smallest=SMALLEST)

    async def expand(
        self, claim_id: str, size: SizeRange, credentials: Chap | None = None
    ) -> ProvisionedLun:
        """See :class:`Provisioner`. A volume that a tgt which was restarted has forgotten is put
        back into it."""
        async with self._claims.deciding():
            claim = await self._handed_out(claim_id)
            if claim.size_bytes < size.required:
                place = _read_parameters(claim.parameters)
                wanted = _rounded(size)
                await self._require_room(place, wanted - claim.size_bytes)
                await host_call(functools.partial(_require_file, place, claim))
                await host_call(functools.partial(_grow, place, claim, wanted))
                # Last: a call that was cut off before it does all of it again.
                claim = await self._write(claim, size_bytes=wanted)
            if not size.admits(claim.size_bytes):
                raise SizeNotPossible(
                    f"volume {claim.name!r} has {claim.size_bytes} bytes, not {size}",
                    remedy="volumes do not shrink",
                )
            return claim.lun()

    # -- inside -----------------------------------------------------------------------------------

    async def _claim(
        self,
        name: str,
        size_bytes: int,
        place: _Place,
        parameters: Mapping[str, str],
        labels: Mapping[str, str],
    ) -> Claim:
        await self._require_room(place, size_bytes)
        claim_id = new_claim_id(name)
        target = f"{TARGET_PREFIX}:{claim_id}"
        return await self._write(
            Claim(
                claim_id=claim_id,
                name=name,
                phase=MAKING,
                url=str(IscsiUrl(None, (place.portal,), target, LUN)),
                key=claim_id,
                size_bytes=size_bytes,
                parameters=dict(parameters),
                labels=dict(labels),
            )
        )

    async def _remove(self, claim: Claim, place: _Place) -> None:
        """The caller is the only one who decides."""
        if claim.phase == READY:
            claim = await self._write(claim, phase=RELEASING)
        target = parse_url(claim.url).target
        users = await host_call(functools.partial(place.admin.remove, target))
        if users:
            await self._write(claim, phase=READY)
            raise ClaimInUse(
                f"volume {claim.name!r} is in use by {', '.join(users)}",
                remedy="unstage it there first",
            )
        await host_call(functools.partial(_unlink, place.file(claim)))
        await host_call(functools.partial(self._claims.remove, claim))

    async def _require_room(self, place: _Place, size_bytes: int) -> None:
        free = await host_call(functools.partial(self._free, place))
        if size_bytes > free:
            raise NoSpaceLeft(
                f"{size_bytes} bytes are wanted, and {place.directory} has {free} that are not "
                "promised yet",
                remedy="delete volumes, or give it more room",
            )

    def _free(self, place: _Place) -> int:
        """Bytes of the directory's file system without what its sparse files may still take."""
        try:
            found = os.statvfs(place.directory)
        except OSError as error:
            raise _unusable(place.directory, error) from error
        promised = 0
        for claim in self._claims.all():
            if claim.parameters.get(DIRECTORY) != str(place.directory):
                continue  # it takes room elsewhere
            used = 0
            with contextlib.suppress(OSError):
                used = place.file(claim).stat().st_blocks * 512
            promised += max(0, claim.size_bytes - used)
        free = found.f_bavail * found.f_frsize - promised
        return max(0, free // GRANULARITY * GRANULARITY)


def _make(place: _Place, claim: Claim) -> None:
    _truncate(place.file(claim), claim.size_bytes)
    target = parse_url(claim.url).target
    place.admin.make(target, place.file(claim), claim.claim_id[-32:])


def _grow(place: _Place, claim: Claim, size_bytes: int) -> None:
    _truncate(place.file(claim), size_bytes)
    if not place.admin.take_size_over(parse_url(claim.url).target, place.file(claim)):
        _make(place, claim)


def _require_file(place: _Place, claim: Claim) -> None:
    """A volume that somebody has is never made anew: it would be empty.

    Raises:
        LunLost: its file is not there.
    """
    if not place.file(claim).is_file():
        raise LunLost(
            f"the file {place.file(claim)} of volume {claim.name!r} is not there",
            remedy=f"mount what {place.directory} is to be, or put it back; if the data is given "
            "up, delete the volume",
        )


def _truncate(file: Path, size_bytes: int) -> None:
    """Make ``file`` at least so large; never smaller."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(file, flags, 0o600)
        try:
            if os.fstat(descriptor).st_size < size_bytes:
                os.ftruncate(descriptor, size_bytes)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _unusable(file.parent, error) from error
    except OSError as error:
        if error.errno == errno.EFBIG:
            raise SizeNotPossible(
                f"{file.parent} has no files of {size_bytes} bytes", remedy="ask for less"
            ) from error
        raise CallFailed("ftruncate", str(file), error.errno or errno.EIO) from error


def _unlink(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise CallFailed("unlink", str(file), error.errno or errno.EIO) from error


def _unusable(directory: Path, error: OSError) -> InvalidSpec:
    return InvalidSpec(
        f"parameter {DIRECTORY}",
        str(directory),
        f"cannot be used ({error.strerror})",
        remedy="make the directory where the controller and tgtd run",
    )


def _rounded(size: SizeRange) -> int:
    """The size that a unit gets."""
    wanted = size.required or min(DEFAULT_BYTES, size.limit or DEFAULT_BYTES)
    rounded = max(SMALLEST, -(-wanted // GRANULARITY) * GRANULARITY)
    if not size.required and size.limit:
        rounded = max(SMALLEST, wanted // GRANULARITY * GRANULARITY)
    if not size.admits(rounded) or rounded > LARGEST:
        raise SizeNotPossible(
            f"no LUN of tgt has {size}",
            remedy=f"ask for {SMALLEST} to {LARGEST} bytes, in multiples of {GRANULARITY}",
        )
    return rounded


def _read_parameters(parameters: Mapping[str, str]) -> _Place:
    known = (CONTROL_PORT, DIRECTORY, PORTAL)
    for key in parameters:
        if key not in known:
            raise InvalidSpec(
                f"parameter {key}", None, "is not known", remedy=f"known are {', '.join(known)}"
            )
    for key in (DIRECTORY, PORTAL):
        if not parameters.get(key):
            raise InvalidSpec(f"parameter {key}", None, "is missing")
    port = parameters.get(CONTROL_PORT, "0")
    if not (port.isascii() and port.isdigit()) or int(port) > MAX_CONTROL_PORT:
        raise InvalidSpec(
            f"parameter {CONTROL_PORT}", port, f"is no number in 0..{MAX_CONTROL_PORT}"
        )
    directory = Path(parameters[DIRECTORY])
    # tgtadm takes commas apart.
    if not directory.is_absolute() or "," in str(directory):
        raise InvalidSpec(
            f"parameter {DIRECTORY}", str(directory), "is no absolute path without commas"
        )
    return _Place(TgtAdmin(int(port)), directory, Portal.parse(parameters[PORTAL]))
