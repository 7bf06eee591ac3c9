# SPDX-License-Identifier: Apache-2.0
"""An initiator of few lines that says exactly what a test tells it to.

It speaks with the PDU codec alone, never with the session code of the package: what is tested here
is the target, and a target that only understands our own initiator would prove nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import anyio.abc

from pyscsi_init.login.text import decode_binary, decode_pairs, encode_hex, encode_pairs
from pyscsi_init.names import Portal
from pyscsi_init.pdu import (
    RESERVED_TAG,
    DataIn,
    DataOut,
    Framer,
    LoginRequest,
    LoginResponse,
    LogoutRequest,
    Pdu,
    ReadyToTransfer,
    ScsiCommand,
    ScsiResponse,
    TaskManagementRequest,
    TaskManagementResponse,
    TextRequest,
    TextResponse,
    decode_target_pdu,
    parse_sense_segment,
    serialize,
)

INITIATOR = "iqn.2024-01.example.host:raw"
ISID = b"\x80\x00\x00\x00\x00\x01"
PATIENCE = 10.0
"""Seconds after which a PDU that does not come fails the test."""

KEYS = {
    "HeaderDigest": "None",
    "DataDigest": "None",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxRecvDataSegmentLength": "65536",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "65536",
    "MaxOutstandingR2T": "8",
    "DefaultTime2Wait": "2",
    "DefaultTime2Retain": "0",
    "ErrorRecoveryLevel": "0",
}


@dataclass
class Answer:
    """How a command ended."""

    status: int
    data: bytes = b""
    sense: bytes = b""
    response: int = 0
    overflow: int = 0
    underflow: int = 0
    pdus: list[Pdu] = field(default_factory=list)

    @property
    def code(self) -> tuple[int, int, int]:
        """Sense key, ASC, ASCQ of fixed format sense data."""
        return self.sense[2] & 0x0F, self.sense[12], self.sense[13]


class RawInitiator:
    """One connection."""

    def __init__(self, stream: anyio.abc.SocketStream) -> None:
        self.stream = stream
        self.framer = Framer(1 << 24)
        self.keys: dict[str, str] = {}
        self.cmd_sn = 100
        self.exp_stat_sn = 0
        self.exp_cmd_sn = 0
        self.max_cmd_sn = 0
        self.tag = 0
        self.digests = (False, False)
        self.first_burst = 65536
        self.segment = 8192
        self.immediate = True

    async def send(self, pdu: Pdu) -> None:
        """Send one PDU as it is."""
        buffers = serialize(pdu, *self.digests)
        await self.stream.send(b"".join(bytes(buffer) for buffer in buffers))

    async def receive(self) -> Pdu:
        """The next PDU; EndOfStream when the target has closed."""
        with anyio.fail_after(PATIENCE):
            while (frame := self.framer.next_frame()) is None:
                buffer = self.framer.receive_buffer()
                data = await self.stream.receive(len(buffer))
                buffer[: len(data)] = data
                self.framer.bytes_received(len(data))
        assert frame.data_digest_ok, "a wrong data digest"
        pdu = decode_target_pdu(frame)
        pdu.data = bytes(pdu.data)
        if not isinstance(pdu, DataIn) or pdu.status_present:
            uses_number = not isinstance(pdu, ReadyToTransfer) and not (
                pdu.opcode == 0x20 and pdu.initiator_task_tag == RESERVED_TAG  # type: ignore[attr-defined]
            )
            stat_sn: int = pdu.stat_sn  # type: ignore[attr-defined]
            if not isinstance(pdu, LoginResponse):
                assert stat_sn == self.exp_stat_sn, "StatSN is not consecutive"
            self.exp_stat_sn = (stat_sn + uses_number) & 0xFFFFFFFF
        self.exp_cmd_sn = pdu.exp_cmd_sn  # type: ignore[attr-defined]
        self.max_cmd_sn = pdu.max_cmd_sn  # type: ignore[attr-defined]
        return pdu

    async def closed(self) -> bool:
        """True when the target closes without another PDU."""
        try:
            pdu = await self.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True
        raise AssertionError(f"{pdu} instead of the end")

    # Login

    async def login_step(
        self, pairs: dict[str, str], *, stage: int, next_stage: int | None = None, **fields: object
    ) -> LoginResponse:
        """One Login Request and its response; the keys of it are in :attr:`keys`."""
        values: dict[str, object] = {"isid": ISID, "cmd_sn": self.cmd_sn, **fields}
        await self.send(
            LoginRequest(
                current_stage=stage,
                transit=next_stage is not None,
                next_stage=next_stage or 0,
                exp_stat_sn=self.exp_stat_sn,
                data=encode_pairs(pairs.items()),
                **values,  # type: ignore[arg-type]
            )
        )
        response = await self.receive()
        assert isinstance(response, LoginResponse)
        self.keys.update(decode_pairs(response.data))
        return response

    async def login(
        self,
        target: str | None,
        *,
        initiator: str = INITIATOR,
        isid: bytes = ISID,
        chap: tuple[str, bytes] | None = None,
        **keys: str,
    ) -> LoginResponse:
        """Log in; ``target`` None is a discovery session. Gives the last response."""
        names = {"InitiatorName": initiator}
        names.update(
            {"SessionType": "Discovery"}
            if target is None
            else {"SessionType": "Normal", "TargetName": target}
        )
        if chap is not None:
            response = await self._authenticate(names, chap, isid)
            if response.status_class:
                return response
            names = {}
        response = await self.login_step(names | KEYS | keys, stage=1, next_stage=3, isid=isid)
        if response.status_class == 0 and response.next_stage == 3:
            self.full_feature()
        return response

    async def _authenticate(
        self, names: dict[str, str], chap: tuple[str, bytes], isid: bytes
    ) -> LoginResponse:
        response = await self.login_step(names | {"AuthMethod": "CHAP"}, stage=0, isid=isid)
        if response.status_class:
            return response
        response = await self.login_step({"CHAP_A": "7"}, stage=0, isid=isid)
        challenge = decode_binary(self.keys["CHAP_C"], 1024)
        identifier = bytes((int(self.keys["CHAP_I"]),))
        proof = hashlib.sha256(identifier + chap[1] + challenge).digest()
        return await self.login_step(
            {"CHAP_N": chap[0], "CHAP_R": encode_hex(proof)}, stage=0, next_stage=1, isid=isid
        )

    def full_feature(self) -> None:
        """From now on digests and lengths hold as negotiated."""
        header, data = (self.keys.get(f"{part}Digest") == "CRC32C" for part in ("Header", "Data"))
        self.digests = (header, data)
        self.framer.header_digest, self.framer.data_digest = header, data
        first_burst = self.keys.get("FirstBurstLength", "")
        self.first_burst = int(first_burst) if first_burst.isdigit() else 65536
        self.segment = int(self.keys.get("MaxRecvDataSegmentLength", 8192))
        self.immediate = self.keys.get("ImmediateData", "Yes") == "Yes"

    # Full feature phase

    def new_tag(self) -> int:
        """A new Initiator Task Tag."""
        self.tag += 1
        return self.tag

    async def start(
        self,
        cdb: bytes,
        *,
        lun: int = 0,
        read: int = 0,
        write: bytes = b"",
        immediate_data: bool = True,
        expected: int | None = None,
        **fields: object,
    ) -> int:
        """Send a command, with as much immediate data as is allowed; gives its tag."""
        tag = self.new_tag()
        room = min(self.first_burst, self.segment, len(write))
        data = write[:room] if immediate_data and self.immediate else b""
        values: dict[str, object] = {"cmd_sn": self.cmd_sn, **fields}
        await self.send(
            ScsiCommand(
                initiator_task_tag=tag,
                lun=lun.to_bytes(2, "big") + bytes(6),
                read=read > 0,
                write=len(write) > 0,
                expected_data_transfer_length=expected or read or len(write),
                exp_stat_sn=self.exp_stat_sn,
                cdb=cdb.ljust(16, b"\0"),
                data=data,
                **values,  # type: ignore[arg-type]
            )
        )
        if "cmd_sn" not in fields and not fields.get("immediate"):
            self.cmd_sn = (self.cmd_sn + 1) & 0xFFFFFFFF
        return tag

    async def answer_r2t(self, r2t: ReadyToTransfer, write: bytes) -> None:
        """Send what an R2T asks for."""
        offset, end = r2t.buffer_offset, r2t.buffer_offset + r2t.desired_data_transfer_length
        number = 0
        while offset < end:
            part = write[offset : min(offset + self.segment, end)]
            await self.send(
                DataOut(
                    final=offset + len(part) == end,
                    lun=r2t.lun,
                    initiator_task_tag=r2t.initiator_task_tag,
                    target_transfer_tag=r2t.target_transfer_tag,
                    exp_stat_sn=self.exp_stat_sn,
                    data_sn=number,
                    buffer_offset=offset,
                    data=part,
                )
            )
            offset += len(part)
            number += 1

    async def finish(self, tag: int, *, write: bytes = b"") -> Answer:
        """Take part in a command until its status."""
        answer = Answer(-1)
        received = bytearray()
        while True:
            pdu = await self.receive()
            answer.pdus.append(pdu)
            assert pdu.initiator_task_tag == tag, f"{pdu} is for another task"  # type: ignore[attr-defined]
            if isinstance(pdu, ReadyToTransfer):
                await self.answer_r2t(pdu, write)
                continue
            assert isinstance(pdu, DataIn | ScsiResponse), pdu
            if isinstance(pdu, DataIn):
                assert pdu.buffer_offset == len(received)
                received += pdu.data
                if not pdu.status_present:
                    continue
            else:
                answer.response = pdu.response
                answer.sense = parse_sense_segment(pdu.data)[0] if pdu.data else b""
            answer.status = pdu.status
            answer.overflow = pdu.residual_count if pdu.residual_overflow else 0
            answer.underflow = pdu.residual_count if pdu.residual_underflow else 0
            answer.data = bytes(received)
            return answer

    async def execute(
        self, cdb: bytes, *, lun: int = 0, read: int = 0, write: bytes = b"", **fields: object
    ) -> Answer:
        """One command from start to end."""
        tag = await self.start(cdb, lun=lun, read=read, write=write, **fields)  # type: ignore[arg-type]
        return await self.finish(tag, write=write)

    async def manage(
        self, function: int, *, lun: int = 0, referenced: int = RESERVED_TAG, ref_cmd_sn: int = 0
    ) -> int:
        """A task management function, sent immediate; gives its response code."""
        await self.start_managing(function, lun=lun, referenced=referenced, ref_cmd_sn=ref_cmd_sn)
        response = await self.receive()
        assert isinstance(response, TaskManagementResponse), response
        return response.response

    async def start_managing(
        self, function: int, *, lun: int = 0, referenced: int = RESERVED_TAG, ref_cmd_sn: int = 0
    ) -> None:
        """The request alone."""
        await self.send(
            TaskManagementRequest(
                immediate=True,
                function=function,
                lun=lun.to_bytes(2, "big") + bytes(6),
                initiator_task_tag=self.new_tag(),
                referenced_task_tag=referenced,
                ref_cmd_sn=ref_cmd_sn,
                cmd_sn=self.cmd_sn,
                exp_stat_sn=self.exp_stat_sn,
            )
        )

    async def send_targets(self, value: str) -> list[tuple[str, str]]:
        """SendTargets, joined from as many responses as it takes."""
        text, ttt, tag = b"", RESERVED_TAG, self.new_tag()
        request = encode_pairs([("SendTargets", value)])
        while True:
            await self.send(
                TextRequest(
                    immediate=True,
                    initiator_task_tag=tag,
                    target_transfer_tag=ttt,
                    cmd_sn=self.cmd_sn,
                    exp_stat_sn=self.exp_stat_sn,
                    data=request,
                )
            )
            response = await self.receive()
            assert isinstance(response, TextResponse), response
            text += bytes(response.data)
            if response.final:
                return decode_pairs(text)
            ttt, request = response.target_transfer_tag, b""

    async def logout(self) -> Pdu:
        """Close the session; gives the response."""
        await self.send(
            LogoutRequest(
                immediate=True,
                initiator_task_tag=self.new_tag(),
                cmd_sn=self.cmd_sn,
                exp_stat_sn=self.exp_stat_sn,
            )
        )
        return await self.receive()


@asynccontextmanager
async def connected(portal: Portal) -> AsyncIterator[RawInitiator]:
    """A connection that has not logged in yet."""
    async with await anyio.connect_tcp(portal.host, portal.port) as stream:
        yield RawInitiator(stream)


@asynccontextmanager
async def logged_in(
    portal: Portal, target: str, **arguments: object
) -> AsyncIterator[RawInitiator]:
    """A connection in full feature phase."""
    async with connected(portal) as initiator:
        response = await initiator.login(target, **arguments)  # type: ignore[arg-type]
        assert response.status_class == 0, (response.status_class, response.status_detail)
        yield initiator


def read_10(lba: int, blocks: int) -> bytes:
    """READ(10)."""
    return b"\x28\0" + lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big") + b"\0"


def write_10(lba: int, blocks: int) -> bytes:
    """WRITE(10)."""
    return b"\x2a\0" + lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big") + b"\0"


TEST_UNIT_READY = bytes(6)
