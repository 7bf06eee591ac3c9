# SPDX-License-Identifier: Apache-2.0
"""The provisioner ``pool``: units that exist are lent out, whole.

A unit is chosen by capacity, the smallest that will do, among those that nobody has. It counts as
had when its identity or its address (target and LUN, whatever the portal) is in a claim or in
quarantine. And it must be blank: a pool may be given a whole target, and what holds data there
belongs to somebody, even if nobody told us.

Taken back, a unit is wiped from its first to its last block, and only then its claim ends; or it
goes into quarantine, from where only an administrator takes it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

from fusefs.errors import InvalidSpec, OperationInProgress
from fusefs.volume import pool_units
from fusefs.volume.claims import (
    READY,
    RELEASING,
    Claim,
    ClaimingProvisioner,
    Claims,
    address_of,
    new_claim_id,
)
from fusefs.volume.hostcalls import host_call
from fusefs.volume.pool_units import Opener, Unit, check_key, is_blank, look, open_unit, wipe
from fusefs.volume.provision import (
    Capacity,
    ClaimInUse,
    NoSpaceLeft,
    ProvisionedLun,
    SizeNotPossible,
    SizeRange,
)
from pyscsi_init.errors import IscsiError, ReservationConflict
from pyscsi_init.secret import Chap
from pyscsi_init.url import IscsiUrl, parse_url

POOL = "pool"
ON_RELEASE = "onRelease"
WIPE, QUARANTINE = "wipe", "quarantine"
_SHOWN = 3
"""Reasons in a message."""


class PoolProvisioner(ClaimingProvisioner):
    """See :class:`fusefs.volume.provision.Provisioner`."""

    name = "pool"

    def __init__(
        self, directory: Path, *, claims: Claims | None = None, opener: Opener = open_unit
    ) -> None:
        """``directory`` holds the claims of all pools; nothing is touched before the first call."""
        super().__init__(claims or Claims(directory))
        self._opener = opener

    async def create(
        self,
        name: str,
        size: SizeRange,
        parameters: Mapping[str, str],
        labels: Mapping[str, str],
        credentials: Chap | None = None,
    ) -> ProvisionedLun:
        """See :class:`Provisioner`."""
        places = _read_parameters(parameters)
        claim = await host_call(functools.partial(self._claims.of_name, name))
        if claim is not None and claim.phase == RELEASING:
            # Its deletion was cut off; what is asked for now is another volume.
            await self.delete(claim.claim_id, credentials)
            claim = None
        if claim is not None:
            claim.check(size, parameters, labels)
            return claim.lun()
        units, errors, refused = await self._look(places, credentials)
        async with self._claims.deciding():
            claim = await host_call(functools.partial(self._claims.of_name, name))
            if claim is None:
                wanted = Claim(
                    claim_id=new_claim_id(name),
                    name=name,
                    phase=READY,
                    url="",
                    key="",
                    size_bytes=0,
                    parameters=dict(parameters),
                    labels=dict(labels),
                )
                claim = await self._choose(wanted, size, units, errors, refused, credentials)
        if claim.phase == RELEASING:
            raise OperationInProgress(name, operation="its deletion")
        claim.check(size, parameters, labels)
        return claim.lun()

    async def delete(self, claim_id: str, credentials: Chap | None = None) -> None:
        """See :class:`Provisioner`."""
        if await host_call(functools.partial(self._claims.find, claim_id)) is None:
            return
        async with self._claims.working_on(claim_id):
            claim = await host_call(functools.partial(self._claims.find, claim_id))
            if claim is None:
                return
            claim = await self._write(claim, phase=RELEASING)
            if claim.parameters.get(ON_RELEASE, WIPE) == QUARANTINE:
                await host_call(functools.partial(self._claims.put_into_quarantine, claim))
            else:
                await self._wipe(claim, credentials)
            # Not under the lock of those who decide, which a target that does not answer may keep
            # for long: a wipe of hours would be in vain. Whoever decides sees the unit had or free,
            # and reads it in either case before he gives it away.
            await host_call(functools.partial(self._claims.remove, claim))

    async def capacity(self, parameters: Mapping[str, str]) -> Capacity:
        """See :class:`Provisioner`. Units that hold data are counted: only a request reads them."""
        units, errors, _ = await self._look(_read_parameters(parameters), None)
        if errors and not units:
            raise errors[0]
        keys, addresses = await host_call(self._taken)
        sizes = [
            unit.size_bytes
            for unit in units
            if unit.key not in keys and address_of(str(unit.url)) not in addresses
        ]
        return Capacity(sum(sizes), largest=max(sizes, default=0), smallest=min(sizes, default=0))

    async def expand(
        self, claim_id: str, size: SizeRange, credentials: Chap | None = None
    ) -> ProvisionedLun:
        """See :class:`Provisioner`. A unit is as large as its target made it; whoever grew it there
        finds the new size here."""
        async with self._claims.working_on(claim_id):
            claim = await self._handed_out(claim_id)
            if claim.size_bytes < size.required:
                url = parse_url(claim.url)
                async with self._opener(url, credentials) as unit:
                    check_key(unit, url, claim.key)
                    now = unit.device.size_bytes
                if now > claim.size_bytes and size.admits(now):
                    claim = await self._write(claim, size_bytes=now)
            if not size.admits(claim.size_bytes):
                raise SizeNotPossible(
                    f"the LUN of volume {claim.name!r} has {claim.size_bytes} bytes, and a pool "
                    f"cannot make it {size}",
                    remedy="grow it at the target and ask again, or copy to a larger volume",
                )
            return claim.lun()

    # -- inside -----------------------------------------------------------------------------------

    async def _look(
        self, places: list[IscsiUrl], credentials: Chap | None
    ) -> tuple[list[Unit], list[IscsiError], list[str]]:
        errors: list[IscsiError] = []
        urls: list[IscsiUrl] = []
        for place in places:
            try:
                urls += await pool_units.units_at(place, credentials)
            except IscsiError as error:
                errors.append(error)
        _, addresses = await host_call(self._taken)
        urls = [url for url in urls if address_of(str(url)) not in addresses]
        units, more, refused = await look(urls, credentials, self._opener)
        return units, errors + more, refused

    def _taken(self) -> tuple[set[str], set[tuple[str, int | None]]]:
        """The units that are not free, by identity and by address."""
        claims = [*self._claims.all(), *self._claims.quarantined()]
        return {claim.key for claim in claims}, {claim.address for claim in claims}

    async def _choose(
        self,
        wanted: Claim,
        size: SizeRange,
        units: list[Unit],
        errors: list[IscsiError],
        refused: list[str],
        credentials: Chap | None,
    ) -> Claim:
        """Claim the smallest free unit that will do; the caller is the only one who decides."""
        keys, addresses = await host_call(self._taken)
        fitting = [unit for unit in units if size.admits(unit.size_bytes)]
        problems, reasons = list(errors), list(refused)
        for unit in sorted(fitting, key=lambda each: each.size_bytes):
            if unit.key in keys or address_of(str(unit.url)) in addresses:
                continue
            try:
                async with self._opener(unit.url, credentials) as opened:
                    check_key(opened, unit.url, unit.key)
                    now = opened.device.size_bytes
                    if not size.admits(now):
                        continue
                    if await opened.is_registered():
                        reasons.append(f"{unit.url} is registered by a node that has it")
                        continue
                    if not await is_blank(opened.device):
                        reasons.append(f"{unit.url} holds data")
                        continue
            except IscsiError as error:
                problems.append(error)
                continue
            return await self._write(wanted, url=str(unit.url), key=unit.key, size_bytes=now)
        if problems:
            raise problems[0]
        sizes = [each.size_bytes for each in await host_call(self._claims.all)]
        text = f"no free LUN of the pool has {size}"
        if reasons:
            text += f" ({', '.join(reasons[:_SHOWN])})"
        if not fitting and not any(map(size.admits, sizes)):
            raise SizeNotPossible(text, remedy="ask for another size, or add LUNs")
        raise NoSpaceLeft(text, remedy="delete volumes, wipe LUNs that hold data, or add LUNs")

    async def _wipe(self, claim: Claim, credentials: Chap | None) -> None:
        url = parse_url(claim.url)
        try:
            async with self._opener(url, credentials) as unit:
                check_key(unit, url, claim.key)
                if await unit.is_registered():
                    raise _in_use(claim, "a node has registered a key")
                await wipe(unit, url)
        except ReservationConflict as error:
            raise _in_use(claim, f"a node holds a reservation ({error})") from error


def _in_use(claim: Claim, reason: str) -> ClaimInUse:
    return ClaimInUse(
        f"volume {claim.name!r} cannot be wiped: {reason}",
        remedy="unstage it there; of a node that is gone: `pyscsi-init reservations`",
    )


def _read_parameters(parameters: Mapping[str, str]) -> list[IscsiUrl]:
    """The places of the pool, after a look at all of it."""
    for key in parameters:
        if key not in (POOL, ON_RELEASE):
            raise InvalidSpec(
                f"parameter {key}", None, "is not known", remedy=f"known are {POOL}, {ON_RELEASE}"
            )
    policy = parameters.get(ON_RELEASE, WIPE)
    if policy not in (WIPE, QUARANTINE):
        raise InvalidSpec(f"parameter {ON_RELEASE}", policy, f"is neither {WIPE} nor {QUARANTINE}")
    return pool_units.read_places(parameters.get(POOL, ""))
