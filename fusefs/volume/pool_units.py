# SPDX-License-Identifier: Apache-2.0
"""The units of a pool, as the initiator sees them: which there are, whether they are blank, wiping.

Only the library is used, and nothing is remembered: each question is asked at the unit.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

import anyio

from fusefs.errors import ContentError, InvalidSpec
from fusefs.volume.claims import address_of
from pyscsi_init.device import BlockDevice, open_lun
from pyscsi_init.device.driver import reset_unit
from pyscsi_init.errors import IdentityMismatch, IscsiError, NotABlockDevice, Unsupported
from pyscsi_init.scsi import decode_lun
from pyscsi_init.secret import Chap
from pyscsi_init.settings import Settings
from pyscsi_init.transport import open_session
from pyscsi_init.url import MAX_LUN, IscsiUrl, parse_url

MEBI = 1 << 20
EDGE_BYTES = MEBI
"""Read whole at the start and at the end: superblocks, partition tables and their copies."""
SAMPLES = 62
SAMPLE_BYTES = 64 << 10
WIPE_BYTES = 64 * MEBI
"""One request of a wipe; so long a cancellation may take."""
AT_ONCE = 4
"""Sessions that look at units at the same time."""

_SETTINGS = Settings(recovery_timeout=30.0)


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit that could be handed out."""

    url: IscsiUrl
    key: str
    size_bytes: int


async def _nobody() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class OpenUnit:
    """A unit with a session."""

    device: BlockDevice
    key: str
    """Equal for the same unit, whatever its address; empty where it does not say who it is."""
    reset: Callable[[], Awaitable[None]]
    """LOGICAL UNIT RESET: when it returns, no write of an earlier session can land any more."""
    is_registered: Callable[[], Awaitable[bool]] = _nobody
    """Whether a node has registered a key with it, as each does that has a volume to itself. Asked
    for, because there are targets (tgt) that let WRITE SAME pass by a reservation."""


Opener = Callable[[IscsiUrl, Chap | None], contextlib.AbstractAsyncContextManager[OpenUnit]]


@contextlib.asynccontextmanager
async def open_unit(url: IscsiUrl, credentials: Chap | None) -> AsyncIterator[OpenUnit]:
    """Log in to a unit, for the length of the block."""
    async with open_lun(url, chap=credentials, settings=_SETTINGS) as lun:
        identity = lun.identity
        known = bool(identity.designators or identity.serial_number)

        async def reset() -> None:
            await reset_unit(lun.session, lun.unit.lun)

        async def is_registered() -> bool:
            try:
                return bool((await lun.reservations.read_keys()).keys)
            except Unsupported:
                return False

        yield OpenUnit(lun, identity.key if known else "", reset, is_registered)


def read_places(text: str) -> list[IscsiUrl]:
    """The URLs of a pool: JSON list, or with white space between them.

    Raises:
        InvalidSpec: there is none, or one names a user.
        InvalidUrl, SecretError: one cannot be read.
    """
    words: Sequence[object] = text.split()
    if text.strip().startswith("["):
        try:
            words = json.loads(text)
        except ValueError as error:
            raise InvalidSpec("parameter pool", text, f"is no JSON list ({error})") from error
    urls = [parse_url(str(word)) for word in words]
    if not urls:
        raise InvalidSpec(
            "parameter pool",
            None,
            "names no unit",
            remedy="give URLs: iscsi://host/target/lun, or iscsi://host/target for all its LUNs",
        )
    for url in urls:
        if url.user is not None:
            raise InvalidSpec(
                "parameter pool", str(url), "names a user", remedy="put credentials into a Secret"
            )
    return urls


async def units_at(url: IscsiUrl, credentials: Chap | None) -> list[IscsiUrl]:
    """The LUNs that a target reports; the URL itself where it names one.

    Raises:
        IscsiError: the target could not be asked.
    """
    if url.lun is not None:
        return [url]
    async with open_session(
        url.portals, url.target, chap=credentials, settings=_SETTINGS
    ) as session:
        numbers = [decode_lun(lun) for lun in await session.report_luns()]
    return [
        replace(url, lun=number)
        for number in numbers
        if isinstance(number, int) and number <= MAX_LUN
    ]


async def look(
    places: Sequence[IscsiUrl], credentials: Chap | None, opener: Opener
) -> tuple[list[Unit], list[IscsiError], list[str]]:
    """What stands at these addresses: units, errors of the way there, and what is none and why.

    A unit that stands there twice is one: the first portals come first.
    """
    found: dict[int, Unit] = {}
    errors: list[IscsiError] = []
    refused: list[str] = []
    limit = anyio.CapacityLimiter(AT_ONCE)

    async def one(number: int, url: IscsiUrl) -> None:
        async with limit:
            try:
                async with opener(url, credentials) as unit:
                    if not unit.key:
                        refused.append(f"{url} has neither designator nor serial number")
                    elif unit.device.read_only:
                        refused.append(f"{url} is write-protected")
                    else:
                        found[number] = Unit(url, unit.key, unit.device.size_bytes)
            except NotABlockDevice:
                pass  # a controller or a tape among all LUNs of a target
            except IscsiError as error:
                errors.append(error)

    async with anyio.create_task_group() as group:
        for number, url in enumerate(places):
            group.start_soon(one, number, url)
    units: dict[str, Unit] = {}
    for number in sorted(found):
        unit = found[number]
        first = units.setdefault(unit.key, unit)
        if first is not unit and address_of(str(first.url)) == address_of(str(unit.url)):
            portals = tuple(dict.fromkeys((*first.url.portals, *unit.url.portals)))
            units[unit.key] = replace(first, url=replace(first.url, portals=portals))
    return list(units.values()), errors, refused


def check_key(unit: OpenUnit, url: IscsiUrl, key: str) -> None:
    """Whether the unit is still the one that was chosen.

    Raises:
        IdentityMismatch: it is another one.
    """
    if unit.key != key:
        raise IdentityMismatch(
            f"at {url} stands {unit.key or 'a unit without identity'!r}, not {key!r} which the "
            "pool means; it is not touched"
        )


async def is_blank(device: BlockDevice) -> bool:
    """Whether a unit reads as zeros at its start, its end and at places between.

    Raises:
        IscsiError: it cannot be read.
    """
    size, block = device.size_bytes, device.block_size
    if size <= 2 * EDGE_BYTES + SAMPLES * SAMPLE_BYTES:
        ranges = [(at, min(EDGE_BYTES, size - at)) for at in range(0, size, EDGE_BYTES)]
    else:
        step = (size - 2 * EDGE_BYTES) // SAMPLES
        ranges = [(0, EDGE_BYTES), (size - EDGE_BYTES, EDGE_BYTES)]
        ranges += [
            ((EDGE_BYTES + number * step) // block * block, SAMPLE_BYTES)
            for number in range(SAMPLES)
        ]
    for offset, length in ranges:
        data = await device.read(offset, length)
        if data.count(0) != length:
            return False
    return True


async def wipe(unit: OpenUnit, url: IscsiUrl) -> None:
    """Make a whole unit read as zeros, for good, and look whether it does.

    Raises:
        ContentError: it said it did, and does not.
        IscsiError: the unit failed.

    Cancellation: part of it is wiped.
    """
    # A write of a session that died may still be on its way, and would land on the zeros.
    await unit.reset()
    device = unit.device
    for offset in range(0, device.size_bytes, WIPE_BYTES):
        await device.write_zeroes(offset, min(WIPE_BYTES, device.size_bytes - offset))
    await device.flush()
    if not await is_blank(device):
        raise ContentError(
            str(url),
            f"{url} was wiped and still holds data",
            remedy="it stays out of the pool; look at the target, then delete the volume again",
        )
