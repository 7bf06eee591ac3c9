# SPDX-License-Identifier: Apache-2.0
"""An iSCSI LUN, opened: any offset, any length, any size of request.

The stack is: alignment, splitting, SCSI commands, session. ``open_lun`` builds it from a URL.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from threading import get_ident

import anyio

from ..errors import (
    InvalidUrl,
    LoginTimeout,
    ReadOnlyDevice,
    ReservationConflict,
    SecretError,
)
from ..scsi import StandardInquiry, encode_lun, may_modify
from ..secret import Chap, Secret
from ..settings import Settings
from ..transport import (
    OPEN_TIMEOUT,
    Connector,
    Reactor,
    ScsiResult,
    Session,
    open_session,
)
from ..url import IscsiUrl, parse_url
from .driver import drive
from .fence import Fence, Fencing
from .fencing import give_back, take_fence, tell_refusal
from .identity import WITNESS_BYTES, Identity
from .probe import UnitFacts, probe_unit, read_head
from .record import UnitRecord
from .recovery import barrier
from .scsi_block import ScsiBlockDevice
from .target_ports import TargetPorts
from .unit_services import UnitServices

log = logging.getLogger("pyscsi_init.device")

CHAP_VARIABLE = "PYSCSI_INIT_CHAP_SECRET"
MUTUAL_CHAP_VARIABLE = "PYSCSI_INIT_CHAP_MUTUAL_SECRET"


class LogicalUnit(UnitServices, TargetPorts):
    """A LUN as a block device, and as what it is: identity, INQUIRY data, raw commands."""

    def __init__(self, unit: ScsiBlockDevice, lun: int | bytes) -> None:
        super().__init__(unit)
        self.lun = lun
        self._thread = get_ident()
        self._keeps_fence = self._gives_all_back = False

    @property
    def session(self) -> Session:
        """The I_T nexus that it was reached by."""
        return self.unit.session

    @property
    def identity(self) -> Identity:
        """What the unit says of itself (VPD 80h, 83h)."""
        return self.unit.identity

    @property
    def inquiry(self) -> StandardInquiry:
        """Standard INQUIRY data."""
        return self.unit.facts.inquiry

    @property
    def facts(self) -> UnitFacts:
        """All that was asked at attach."""
        return self.unit.facts

    def record(self) -> UnitRecord:
        """What another process needs to know this unit again (``predecessor`` of open_lun)."""
        return self.unit.watch.record

    @property
    def record_changed(self) -> list[Callable[[], None]]:
        """Called on the loop's thread when :meth:`record` changed, before what changes it leaves:
        who puts the record down in here has put it down in time."""
        return self.unit.watch.record_changed

    @property
    def reservations_lost(self) -> list[Callable[[], None]]:
        """Called on the loop's thread when the unit says that another initiator preempted, released
        or cleared reservations or registrations (2A/03 to 2A/05). The command that met it is sent
        again, and refused by the unit where it has to be; who relied on a reservation that is gone
        altogether hears of it here only."""
        return self.unit.watch.reservations_lost

    @property
    def fence(self) -> Fence | None:
        """What keeps other nodes from writing (``fencing`` of open_lun); None where nothing does.
        It is given back at close, unless this node was registered before
        (:meth:`give_back_all`)."""
        return self.unit.watch.fence

    def keep_fence(self) -> None:
        """Do not give the fence back at close: another process of this node goes on with it."""
        self._keeps_fence = True

    def give_back_all(self) -> None:
        """At close give the fence back also if the key of this node was found registered: nothing
        else of this node uses the unit, so that was of a session that is gone."""
        self._gives_all_back = True

    async def aclose(self) -> None:
        """End what is in flight, give the fence back, let go of the session, which stays open."""
        await super().aclose()
        fence, session = self.fence, self.session
        if fence is None or self._keeps_fence:
            return
        self.unit.watch.fence = None
        await give_back(fence, session, self.unit.lun, everything=self._gives_all_back)

    async def execute(
        self,
        cdb: bytes,
        *,
        data_out: bytes | bytearray | memoryview = b"",
        data_in_length: int = 0,
        seconds: float | None = None,
    ) -> ScsiResult:
        """Send any CDB to this unit; see :meth:`pyscsi_init.Session.execute`.

        What it writes is not ordered with the requests of the block device that are in flight.
        """
        watch = self.unit.watch
        modifies = len(data_out) > 0 or may_modify(cdb)
        if modifies:  # before it leaves: should the connection die, its effect is no other disk
            watch.discard_started(0)
        try:
            return await self.session.execute(
                self.unit.lun,
                cdb,
                data_out=data_out,
                data_in_length=data_in_length,
                seconds=seconds,
            )
        except ReservationConflict:
            watch.doubt_fence()
            raise
        finally:
            if modifies:
                watch.write_ended(certain=True)

    async def refresh_capacity(self) -> int:
        """Ask for the capacity anew, for targets that do not tell; returns the size in bytes."""
        return await self.unit.refresh_capacity()

    def __repr__(self) -> str:
        return f"<LogicalUnit {self.unit.what} {self.identity.name} {self.size_bytes} bytes>"


def resolve_chap(url: IscsiUrl, chap: Chap | Secret | None) -> Chap | None:
    """The credentials for a URL: as given, or its user name with a secret from the environment.

    Raises:
        SecretError: the URL has a user name, and there is no secret for it.
    """
    if isinstance(chap, Secret):
        if not url.user:
            raise SecretError(
                "CHAP secret", None, "comes without a user name", "write user@ in the URL"
            )
        return Chap(user=url.user, secret=chap)
    if isinstance(chap, Chap):
        return chap if chap.user or not url.user else replace(chap, user=url.user)
    if chap is not None:
        raise TypeError(
            f"chap: {type(chap).__name__} is neither a Chap nor, with the user in the URL, a Secret"
        )
    if not url.user:
        return None
    secret = os.environ.get(CHAP_VARIABLE)
    if not secret:
        raise SecretError(
            f"CHAP secret of user {url.user!r}",
            None,
            "is missing",
            f"give it as an argument, in a file, or in the environment variable {CHAP_VARIABLE}",
        )
    mutual = os.environ.get(MUTUAL_CHAP_VARIABLE)
    return Chap(
        user=url.user, secret=Secret(secret), mutual_secret=Secret(mutual) if mutual else None
    )


async def attach_unit(
    session: Session,
    lun: int | bytes,
    *,
    read_only: bool = False,
    predecessor: UnitRecord | None = None,
    unknown_outcome: bool = False,
    fencing: Fencing | None = None,
) -> LogicalUnit:
    """The logical unit behind a LUN of an open session.

    ``predecessor``, ``unknown_outcome`` and ``fencing``: see :func:`open_lun`.

    Raises:
        LunNotFound, NotABlockDevice: nothing there, or no disk.
        HeldByAnother: another node has reserved it.
        IdentityMismatch, CapacityShrunk: not the disk that the predecessor had.
        Fenced: another node took it over from the predecessor.
        ScsiError: the unit refuses what every disk must know.
    """
    address = encode_lun(lun)
    what = f"LUN {lun if isinstance(lun, int) else lun.hex()} of {session.target_name}"
    fence: Fence | None = None
    if predecessor is not None:
        if predecessor.fence is not None and not read_only:
            fence = Fence.remembered(what, predecessor.fence)
        steps = barrier(
            what,
            predecessor.identity,
            predecessor.witness(),
            unknown_outcome=unknown_outcome,
            read_only=read_only,
            fence=fence,
        )
        await drive(steps, session, address)
        if fence is not None:
            tell_refusal(fence)
    facts = await drive(probe_unit(what), session, address)
    if fencing is not None and predecessor is None and not (read_only or facts.write_protected):
        fence = await take_fence(session, address, what, fencing)
    try:
        unit = await _with_content(session, address, what, facts, read_only=read_only)
    except BaseException:
        if fence is not None and predecessor is None:
            with anyio.CancelScope(shield=True):
                await give_back(fence, session, address)
        raise
    unit.watch.fence = fence
    return LogicalUnit(unit, lun)


async def _with_content(
    session: Session, address: bytes, what: str, facts: UnitFacts, *, read_only: bool
) -> ScsiBlockDevice:
    """The unit with what the start of it holds; read after it was fenced, so that nothing of
    another node lands on it afterwards."""
    capacity = facts.capacity
    length = min(WITNESS_BYTES, capacity.blocks * capacity.block_size)
    try:
        head = await drive(read_head(capacity.block_size, length), session, address)
    except ReservationConflict as error:
        # Reserved by another initiator for itself alone: whoever wants to take it over has to get
        # this far, and reads and writes will say it again.
        log.info("%s: its content cannot be looked at: %s", what, error)
        unit = ScsiBlockDevice(session, address, what, facts, bytes(length), read_only=read_only)
        unit.watch.witness.forget()
    else:
        unit = ScsiBlockDevice(session, address, what, facts, head, read_only=read_only)
    return unit


@contextlib.asynccontextmanager
async def open_lun(
    url: str | IscsiUrl,
    *,
    chap: Chap | Secret | None = None,
    settings: Settings | None = None,
    initiator_name: str | None = None,
    isid: bytes | None = None,
    read_only: bool = False,
    reactor: Reactor | None = None,
    open_timeout: float = OPEN_TIMEOUT,
    predecessor: UnitRecord | None = None,
    unknown_outcome: bool = False,
    fencing: Fencing | None = None,
    connector: Connector | None = None,
) -> AsyncIterator[LogicalUnit]:
    """Log in to a target and open one of its LUNs as a block device; log out when the block ends.

    ``url`` is ``iscsi://[user@]host[:port][,host...]/target-name/lun``; several portals are tried
    in order. With a user name in it and no ``chap``, the secret comes from the environment variable
    PYSCSI_INIT_CHAP_SECRET. Runs on asyncio and on trio.

    With ``read_only`` nothing that writes is ever sent. When the session is lost, requests wait and
    are sent again once it is back, for at most ``settings.recovery_timeout`` seconds.

    A process that takes over from a dead one gives the ``predecessor``'s record: the unit must be
    the same, with the same content and not smaller, or nothing is written to it. With
    ``unknown_outcome`` (the dead process left a write without an answer) the unit is reset first,
    so that no old write lands after the block has been opened; the ISID should be the dead one's,
    which ends its session. A predecessor's fence is checked before anything is written.

    With ``fencing`` the unit is reserved for this node: others may read it, and are refused when
    they write. Without it, and with ``read_only``, nobody is kept out.

    Raises:
        ConfigurationError: the URL, a name or a secret cannot be used.
        ConnectError, LoginError, ProtocolError: no session (see :func:`open_session`).
        LunNotFound, NotABlockDevice: no disk at this LUN.
        IdentityMismatch, CapacityShrunk: not the predecessor's disk.
        HeldByAnother, Fenced: another node has it, or took it over from the predecessor.
        Unsupported: fencing is required, and the unit has no persistent reservations.

    Cancellation: the session is logged out, or its connection closed.
    """
    parsed = parse_url(url) if isinstance(url, str) else url
    if not isinstance(parsed, IscsiUrl):
        raise TypeError(f"url: {type(url).__name__} is neither text nor an IscsiUrl")
    if predecessor is not None and not isinstance(predecessor, UnitRecord):
        raise TypeError(
            f"predecessor: {type(predecessor).__name__} is no UnitRecord; UnitRecord.from_json() "
            "makes one of what to_json() gave"
        )
    if fencing is not None and not isinstance(fencing, Fencing):
        raise TypeError(f"fencing: {type(fencing).__name__} is no Fencing; write Fencing(...)")
    if parsed.lun is None:
        raise InvalidUrl("URL", str(parsed), "names no LUN", "add /NUMBER; `luns` lists them")
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            open_session(
                parsed.portals,
                parsed.target,
                chap=resolve_chap(parsed, chap),
                settings=settings,
                initiator_name=initiator_name,
                isid=isid,
                reactor=reactor,
                open_timeout=open_timeout,
                connector=connector,
            )
        )
        unit: LogicalUnit | None = None
        with anyio.move_on_after(open_timeout):
            unit = await attach_unit(
                session,
                parsed.lun,
                read_only=read_only,
                predecessor=predecessor,
                unknown_outcome=unknown_outcome,
                fencing=fencing,
            )
        if unit is None:
            raise LoginTimeout(f"LUN {parsed.lun} did not become ready within {open_timeout:g} s")
        try:
            yield unit
        finally:
            with anyio.CancelScope(shield=True):
                await unit.aclose()


def require_writable(unit: LogicalUnit) -> None:
    """Raise where a unit that is to be written is write-protected.

    Raises:
        ReadOnlyDevice: with the remedy.
    """
    if unit.read_only:
        raise ReadOnlyDevice(f"{unit.unit.what} is write-protected at the target; use it read-only")
