# SPDX-License-Identifier: Apache-2.0
"""What a logical unit can do beyond reading and writing: compare, verify, tell what is allocated.

Byte offsets and lengths, in whole blocks of the unit: a command that compares or verifies cannot be
widened to its blocks as a write can. None of it is ordered with the requests of the block device
that are in flight at the same time; whoever needs an order waits for them first.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterator
from dataclasses import dataclass

from ..buffers import Buffer, byte_view
from ..errors import (
    LocalProtocolError,
    Miscompare,
    OutcomeUnknown,
    ProtocolError,
    ReadOnlyDevice,
    Unsupported,
)
from ..scsi import (
    ByteCheck,
    LbaStatus,
    ProvisioningStatus,
    compare_and_write,
    describe_cdb,
    fits_10,
    get_lba_status,
    parse_lba_status,
    report_supported_operation_codes,
    verify_10,
    verify_16,
    write_and_verify_10,
    write_and_verify_16,
)
from ..session import Replay
from .direct import DirectDevice
from .interface import Operation, out_of_range
from .reservation import PersistentReservations
from .services import carry_out
from .steps import Command, Steps, attempt, demand_if_known

log = logging.getLogger("pyscsi_init.device")

MOST_LBA_STATUS = 4096
"""Bytes of one GET LBA STATUS answer: 255 extents."""

_SUPPORTED = {0b001: False, 0b011: True, 0b101: True}
"""SUPPORT of REPORT SUPPORTED OPERATION CODES (SPC-4 table 279); other values say nothing."""


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of the device in one state: ``offset`` and ``length`` in bytes."""

    offset: int
    length: int
    status: int
    """A ProvisioningStatus: MAPPED also stands for "not known"; other numbers are reserved."""

    @property
    def deallocated(self) -> bool:
        """No storage is behind it."""
        return self.status == ProvisioningStatus.DEALLOCATED


class UnitServices(DirectDevice):
    """The commands of a unit. All of them raise, besides what their text says:

    OutOfRange, LocalProtocolError: the range is not on the unit, or not in whole blocks.
    Unsupported: the unit does not know the command.
    ScsiError: another refusal. TaskError, ConnectionLost: no answer.
    """

    @property
    def reservations(self) -> PersistentReservations:
        """Persistent reservations: who may use the unit."""
        return PersistentReservations(self.unit)

    # -- blocks (SBC-3 clause 5) -----------------------------------------------------------------

    async def compare_and_write(
        self, offset: int, expected: Buffer, data: Buffer, *, fua: bool = False
    ) -> None:
        """Write ``data`` if the blocks hold ``expected``, in one step that nothing comes between.

        Both have the same length: whole blocks, at most ``max_compare_and_write_bytes``. With
        ``fua`` it is on stable storage on return.

        Raises:
            Miscompare: they hold something else; nothing was written. ``offset`` is the first byte
                of ``expected`` that differs, where the unit tells.
            OutcomeUnknown: the connection died; it may have been done or not, and is never sent
                again, because it would compare with what it wrote itself. After that, the unit has
                been reset before the next command: what is read then is what stays, so reading the
                blocks tells, if ``data`` is something that only this caller writes.
            TaskTimeout: no answer in time; it may have been done or not, and is under way no more.
            ReadOnlyDevice, Unsupported.

        Cancellation: it may have been done or not.
        """
        unit, size = self.unit, self.unit.block_size
        old = bytes(byte_view("compare_and_write", expected))
        new = bytes(byte_view("compare_and_write", data))
        what = f"COMPARE AND WRITE of {len(new) // size} blocks at LBA {offset // size}"
        if len(old) != len(new):
            raise LocalProtocolError(
                f"{what}: {len(old)} bytes to compare and {len(new)} to write must be equally many"
            )
        if len(new) > self.max_compare_and_write_bytes:
            raise Unsupported(
                f"{what}: {unit.what} takes at most {self.max_compare_and_write_bytes} bytes, "
                f"not {len(new)}"
            )
        self._check("COMPARE AND WRITE", offset, len(new), writes=True)
        if not new:
            return
        native = fua and unit.commands.carries_fua(Operation.WRITE)
        cdb = compare_and_write(offset // size, len(new) // size, native)
        command = Command(cdb, 0, what, data_out=old + new, replay=Replay.NEVER, modifies=True)
        start = offset < unit.witness.length
        if start:
            unit.watch.discard_started(offset)
        try:
            await carry_out(unit, demand_if_known(command, unit.what))
        except OutcomeUnknown as error:
            raise OutcomeUnknown(f"{what}: {error}; read the blocks to see it") from error
        finally:
            if start:
                unit.watch.write_ended(certain=True)
        if fua and not native:
            await self.flush()

    @property
    def max_compare_and_write_bytes(self) -> int:
        """The most that COMPARE AND WRITE takes (VPD B0h); 0 where the unit does not offer it."""
        limits = self.unit.facts.block_limits
        blocks = 0 if limits is None else limits.maximum_compare_and_write_length
        return blocks * self.unit.block_size

    async def verify(self, offset: int, length: int) -> None:
        """Have the unit read its medium, without moving the data (VERIFY, BYTCHK 00b).

        Raises:
            MediumError: ``information`` is the first bad LBA.
        """
        self._check("VERIFY", offset, length)
        for at, count in self._pieces(offset, length):
            await carry_out(self.unit, self._verify(at, count, None))

    async def compare(self, offset: int, data: Buffer) -> None:
        """Have the unit compare what it holds with ``data`` (VERIFY, BYTCHK 01b).

        Raises:
            Miscompare: ``offset`` is the first byte of ``data`` that differs; None where the blocks
                were equal again when they were looked at.
        """
        whole = bytes(byte_view("compare", data))
        self._check("VERIFY", offset, len(whole))
        for at, count in self._pieces(offset, len(whole)):
            part = whole[at - offset : at - offset + count]
            try:
                await carry_out(self.unit, self._verify(at, count, part))
            except Miscompare as error:
                stored = await self.read(at, count)
                raise _located(error, at - offset, part, stored) from error

    async def write_and_verify(self, offset: int, data: Buffer, *, compare: bool = False) -> None:
        """Write ``data`` to the medium itself and have the unit read it from there; with
        ``compare`` also compare it byte by byte (BYTCHK 01b). On stable storage on return.

        Sent again after a lost connection, as a write is.

        Raises:
            MediumError, Miscompare: the medium does not hold what was written.
            ReadOnlyDevice.

        Cancellation: the range may hold old or new data.
        """
        whole = bytes(byte_view("write_and_verify", data))
        self._check("WRITE AND VERIFY", offset, len(whole), writes=True)
        unit = self.unit
        check = ByteCheck.COMPARE if compare else ByteCheck.MEDIUM_ONLY
        for at, count in self._pieces(offset, len(whole)):
            part = whole[at - offset : at - offset + count]
            start = at < unit.witness.length
            if start:
                unit.watch.write_started(at, part, count)
            certain = False
            try:
                await carry_out(unit, self._write_and_verify(at, part, check))
                certain = True
            finally:
                if start:
                    unit.watch.write_ended(certain=certain)

    async def extents(self, offset: int, length: int) -> list[Extent]:
        """Which parts of a range have storage behind them (GET LBA STATUS), in order, without gaps.

        A unit that answers with other blocks than those that were asked for is taken to know
        nothing of them: such a part is MAPPED.
        """
        self._check("GET LBA STATUS", offset, length)
        return await carry_out(self.unit, self._extents(offset, length))

    async def supports(self, opcode: int, service_action: int | None = None) -> bool | None:
        """Whether the unit knows a command, by its own word (REPORT SUPPORTED OPERATION CODES);
        None where it does not say. Nothing here depends on it: a command that is refused tells the
        same, and units exist that answer GOOD and nothing more."""
        cdb = report_supported_operation_codes(64, opcode=opcode, service_action=service_action)
        data = await carry_out(self.unit, attempt(Command(cdb, 64, "REPORT SUPPORTED OPCODES")))
        return _SUPPORTED.get(data[1] & 0x07) if data is not None and len(data) >= 2 else None

    # -- sequences -------------------------------------------------------------------------------

    def _check(self, what: str, offset: int, length: int, *, writes: bool = False) -> None:
        unit, size = self.unit, self.unit.block_size
        offset, length = operator.index(offset), operator.index(length)
        if offset < 0 or length < 0 or offset + length > unit.size_bytes:
            raise out_of_range(what, offset, length, unit.size_bytes)
        if writes and unit.read_only:
            raise ReadOnlyDevice(f"{what} at {offset}: the device is read-only")
        if offset % size or length % size:
            raise LocalProtocolError(
                f"{what} of {length} bytes at {offset}: takes whole blocks of {size} bytes only"
            )

    def _pieces(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Offsets and lengths that one command takes."""
        most = self.unit.limits.max_transfer_bytes
        for at in range(offset, offset + length, most):
            yield at, min(most, offset + length - at)

    def _verify(self, offset: int, length: int, data: bytes | None) -> Steps[None]:
        size = self.unit.block_size
        lba, blocks = offset // size, length // size
        check = ByteCheck.MEDIUM_ONLY if data is None else ByteCheck.COMPARE
        cdb = (verify_10 if fits_10(lba, blocks) else verify_16)(lba, blocks, check)
        command = Command(cdb, 0, describe_cdb(cdb), data_out=data or b"", seconds=self._slow)
        yield from demand_if_known(command, self.unit.what)

    @property
    def _slow(self) -> float:
        """Seconds for a command that waits for the medium itself."""
        return self.unit.commands.timeout(Operation.FLUSH)

    def _write_and_verify(self, offset: int, data: bytes, check: ByteCheck) -> Steps[None]:
        size = self.unit.block_size
        lba, blocks = offset // size, len(data) // size
        build = write_and_verify_10 if fits_10(lba, blocks) else write_and_verify_16
        cdb = build(lba, blocks, check)
        command = Command(
            cdb, 0, describe_cdb(cdb), data_out=data, modifies=True, seconds=self._slow
        )
        yield from demand_if_known(command, self.unit.what)

    def _extents(self, offset: int, length: int) -> Steps[list[Extent]]:
        size, end = self.unit.block_size, offset + length
        found: list[Extent] = []
        while offset < end:
            cdb = get_lba_status(offset // size, MOST_LBA_STATUS)
            command = Command(cdb, MOST_LBA_STATUS, f"GET LBA STATUS from LBA {offset // size}")
            data = yield from demand_if_known(command, self.unit.what)
            try:
                runs = parse_lba_status(data, offset // size)
            except ProtocolError as error:
                log.info("%s: %s; the rest counts as mapped", self.unit.what, error)
                rest = -(-(end - offset) // size)
                runs = (
                    LbaStatus(lba=offset // size, blocks=rest, status=ProvisioningStatus.MAPPED),
                )
            for run in runs:
                stop = min((run.lba + run.blocks) * size, end)
                if found and found[-1].status == run.status:
                    last = found.pop()
                    found.append(Extent(last.offset, stop - last.offset, run.status))
                elif stop > offset:
                    found.append(Extent(offset, stop - offset, run.status))
                offset = max(offset, stop)
        return found


def _located(error: Miscompare, at: int, sent: bytes, stored: bytes) -> Miscompare:
    """The same error with the first difference, by what is stored now: INFORMATION of VERIFY may be
    a block or a byte, as each unit likes."""
    first = next((i for i, (a, b) in enumerate(zip(sent, stored, strict=True)) if a != b), None)
    where = None if first is None else at + first
    text = "equal now" if where is None else f"first difference at byte {where}"
    return Miscompare(
        f"VERIFY: the blocks hold something else, {text}",
        sense_key=error.sense_key,
        asc=error.asc,
        ascq=error.ascq,
        information=where,
    )
