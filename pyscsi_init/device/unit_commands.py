# SPDX-License-Identifier: Apache-2.0
"""Which SCSI command does what a block request asks for, on this logical unit.

Made from what the unit said at attach, corrected by what it refuses later (``learn``): a command
that it does not know is replaced by another that does the same. Pure: builds CDBs, sends nothing.
"""

from __future__ import annotations

import enum

from ..scsi import (
    Opcode,
    Sense,
    read_10,
    read_16,
    synchronize_cache_10,
    unmap,
    unmap_parameter_list,
    write_10,
    write_16,
    write_same_10,
    write_same_16,
)
from ..settings import Settings
from .interface import BlockRequest, Limits, Operation
from .probe import UnitFacts

DEFAULT_MAX_TRANSFER = 524288
"""Where VPD B0h is missing: units of several makers fail above 1024 sectors of 512 bytes."""

LARGEST_TRANSFER = 4194304
"""No command of ours is larger, whatever the unit allows: nothing is gained, memory is lost."""

LARGEST_DISCARD = 1 << 30
"""Bytes per UNMAP descriptor where the unit sets no limit: one that takes minutes blocks others."""

_LAST_32 = 1 << 32
_MOST_BLOCKS_10 = 0xFFFF
_ILLEGAL_REQUEST = 0x5
_INVALID_OPCODE = 0x20
_INVALID_FIELD = 0x24
_INVALID_LIST = 0x26

Transfer = tuple[bytes, memoryview | None, memoryview | None]


class Discard(enum.Enum):
    """The commands that unmap blocks, in the order in which they are preferred."""

    WRITE_SAME_16 = Opcode.WRITE_SAME_16
    UNMAP = Opcode.UNMAP
    WRITE_SAME_10 = Opcode.WRITE_SAME_10


class UnitCommands:
    """The commands of one unit."""

    def __init__(self, facts: UnitFacts, settings: Settings) -> None:
        self._settings = settings
        self._size = facts.capacity.block_size
        self._dpofua = facts.dpofua
        self._write_cache = facts.write_cache
        self._no_flush = False
        self._write_same_16 = self._write_same_10 = True
        provisioning = facts.provisioning
        thin = facts.capacity.provisioned
        self._unmapped_reads_zero = facts.capacity.unmapped_reads_zero
        known = provisioning if thin else None
        discards = {
            Discard.WRITE_SAME_16: known is not None and known.lbpws,
            Discard.UNMAP: known is not None and known.lbpu,
            # Ten bytes count 65535 blocks and reach the first 2**32 of them.
            Discard.WRITE_SAME_10: known is not None
            and known.lbpws10
            and facts.capacity.blocks <= _LAST_32,
        }
        self._discards = [command for command, has in discards.items() if has]
        """The unit's commands for it, the best first."""
        self._zero_block = memoryview(bytes(self._size))
        self._block_limits = facts.block_limits

    @property
    def limits(self) -> Limits:
        """What one command takes, by what is known now."""
        size = self._size
        b0 = self._block_limits
        transfer = self._settings.max_transfer_bytes
        if not transfer:
            if b0 is None:
                transfer = DEFAULT_MAX_TRANSFER
            else:
                transfer = b0.maximum_transfer_length * size or LARGEST_TRANSFER
        transfer = max(min(transfer, LARGEST_TRANSFER) // size, 1) * size
        if b0 is None:
            return Limits(
                max_transfer_bytes=transfer,
                max_discard_bytes=self._most_discarded(LARGEST_DISCARD),
                max_write_zeroes_bytes=transfer,
            )
        by_unmap = self._discards[:1] == [Discard.UNMAP]
        most = b0.maximum_unmap_lba_count if by_unmap else b0.maximum_write_same_length
        discard = self._most_discarded(most * size or LARGEST_DISCARD)
        granularity = max(b0.optimal_unmap_granularity, 1) * size
        zeroes = (b0.maximum_write_same_length * size) or transfer
        return Limits(
            max_transfer_bytes=transfer,
            optimal_transfer_bytes=min(b0.optimal_transfer_length * size, transfer),
            max_discard_bytes=discard,
            discard_granularity_bytes=granularity,
            discard_alignment_bytes=(b0.unmap_granularity_alignment * size if b0.ugavalid else 0),
            # The fallback is an ordinary WRITE of zeros, which has to fit too.
            max_write_zeroes_bytes=min(zeroes, transfer),
        )

    def _most_discarded(self, most: int) -> int:
        if self._discards[:1] == [Discard.WRITE_SAME_10]:
            most = min(most, _MOST_BLOCKS_10 * self._size)
        return min(most, LARGEST_DISCARD)

    # -- what can be done ------------------------------------------------------------------------

    @property
    def can_discard(self) -> bool:
        """The unit is thin and knows a command for it."""
        return bool(self._discards)

    @property
    def discard_zeroes(self) -> bool:
        """What is discarded certainly reads as zeros.

        WRITE SAME with UNMAP says so: where the unit does not unmap, it writes (SBC). UNMAP is a
        hint that a unit may ignore, so LBPRZ alone is no promise.
        """
        return self._unmapped_reads_zero and self._discards[:1] in (
            [Discard.WRITE_SAME_16],
            [Discard.WRITE_SAME_10],
        )

    def takes_discard(self, request: BlockRequest) -> bool:
        """The range fits one command; a request that was cut for another command may not."""
        return self.can_discard and request.length <= self.limits.max_discard_bytes

    @property
    def flush_needed(self) -> bool:
        """Completed writes may still be in a cache of the unit."""
        return self._write_cache is not False and not self._no_flush

    def carries_fua(self, operation: Operation) -> bool:
        """The command itself can ask for stable storage."""
        return self._dpofua and operation is Operation.WRITE

    def timeout(self, operation: Operation) -> float:
        """Seconds that the command may take."""
        if operation in (Operation.READ, Operation.WRITE):
            return self._settings.command_timeout
        return self._settings.flush_timeout

    # -- CDBs ------------------------------------------------------------------------------------

    def build(self, request: BlockRequest) -> Transfer:
        """The CDB, and the buffer that the data comes into or goes out of."""
        operation = request.operation
        size = self._size
        lba = request.offset // size
        blocks = request.length // size
        short = lba + blocks <= _LAST_32 and blocks <= _MOST_BLOCKS_10
        if operation is Operation.READ:
            assert request.buffer is not None  # noqa: S101  (for mypy: check_range has looked)
            cdb = read_10(lba, blocks) if short else read_16(lba, blocks)
            return cdb, memoryview(request.buffer), None
        if operation is Operation.WRITE:
            assert request.buffer is not None  # noqa: S101  (for mypy: check_range has looked)
            fua = request.fua and self._dpofua
            cdb = write_10(lba, blocks, fua) if short else write_16(lba, blocks, fua)
            return cdb, None, memoryview(request.buffer)
        if operation is Operation.FLUSH:
            return self.flush_cdb(), None, None
        if operation is Operation.DISCARD:
            return self._discard(lba, blocks)
        return self._write_zeroes(lba, blocks, short)

    def flush_cdb(self) -> bytes:
        """SYNCHRONIZE CACHE of the whole unit: LBA 0, 0 blocks (SBC)."""
        return synchronize_cache_10()

    def _discard(self, lba: int, blocks: int) -> Transfer:
        command = self._discards[0]
        if command is Discard.UNMAP:
            parameters = unmap_parameter_list([(lba, blocks)])
            return unmap(len(parameters)), None, memoryview(parameters)
        if command is Discard.WRITE_SAME_16:
            return write_same_16(lba, blocks, unmap=True), None, self._zero_block
        return write_same_10(lba, blocks, unmap=True), None, self._zero_block

    def _write_zeroes(self, lba: int, blocks: int, short: bool) -> Transfer:
        if self._write_same_10 and short:
            return write_same_10(lba, blocks), None, self._zero_block
        if self._write_same_16:
            return write_same_16(lba, blocks), None, self._zero_block
        cdb = write_10(lba, blocks) if short else write_16(lba, blocks)
        return cdb, None, memoryview(bytes(blocks * self._size))

    # -- what the unit refuses -------------------------------------------------------------------

    def learn(self, operation: Operation, opcode: int, sense: Sense) -> bool:
        """Take the refusal of a command; True where the request can now be done in another way, or
        is done with. Several of one kind may be refused at once: that is one thing to learn."""
        if sense.sense_key != _ILLEGAL_REQUEST:
            return False
        if sense.asc not in (_INVALID_OPCODE, _INVALID_FIELD, _INVALID_LIST):
            return False
        if operation is Operation.WRITE_ZEROES and opcode == Opcode.WRITE_SAME_10:
            self._write_same_10 = False
            return True
        if operation is Operation.WRITE_ZEROES and opcode == Opcode.WRITE_SAME_16:
            self._write_same_16 = False
            return True
        if operation is Operation.DISCARD:
            self._discards = [each for each in self._discards if each.value != opcode]
            return True
        if operation is Operation.FLUSH and sense.asc == _INVALID_OPCODE and not self._write_cache:
            # A unit that knows no SYNCHRONIZE CACHE and claims no write cache has none to flush.
            # One that claims a cache and cannot flush it loses data: that stays an error.
            self._no_flush = True
            return True
        return False

    def describe(self, request: BlockRequest) -> str:
        """The command of a request, for an error text."""
        size = self._size
        operation = request.operation
        if operation is Operation.FLUSH:
            return "SYNCHRONIZE CACHE"
        name = {
            Operation.READ: "READ",
            Operation.WRITE: "WRITE",
            Operation.DISCARD: "discard",
            Operation.WRITE_ZEROES: "write of zeros",
        }[operation]
        return f"{name} of {request.length // size} blocks at LBA {request.offset // size}"
