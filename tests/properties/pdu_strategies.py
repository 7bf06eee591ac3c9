# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies for every PDU of RFC 7143 section 11, and a stream of them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from hypothesis import strategies as st

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import INITIATOR_PDUS, TARGET_PDUS, Framer, Pdu, ScsiCommand, serialize

CLASSES = [*INITIATOR_PDUS.values(), *TARGET_PDUS.values()]

_BITS = {
    "attr": 3,
    "pri": 4,
    "type": 4,
    "current_stage": 2,
    "next_stage": 2,
    "function": 7,
    "version_max": 8,
    "version_min": 8,
    "version_active": 8,
    "status_class": 8,
    "status_detail": 8,
    "status": 8,
    "response": 8,
    "async_event": 8,
    "async_vcode": 8,
    "status_qualifier": 16,
    "tsih": 16,
    "cid": 16,
    "parameter1": 16,
    "parameter2": 16,
    "parameter3": 16,
    "time2wait": 16,
    "time2retain": 16,
    "additional_response_information": 24,
}
_BYTES = {"lun": 8, "isid": 6}
_REASON_BITS = {"LogoutRequest": 7, "Reject": 8}


def _values(cls: type[Pdu], name: str, kind: str) -> st.SearchStrategy[Any]:
    if name == "data":
        return st.binary(max_size=40) if cls.may_carry_data else st.just(b"")
    if name == "cdb":
        return st.binary(min_size=16, max_size=16) | st.binary(min_size=16, max_size=260)
    if name in _BYTES:
        return st.binary(min_size=_BYTES[name], max_size=_BYTES[name])
    if kind == "bool":
        return st.booleans()
    bits = _REASON_BITS[cls.__name__] if name == "reason" else _BITS.get(name, 32)
    number = st.integers(0, (1 << bits) - 1)
    return st.none() | number if kind == "int | None" else number


def _well_formed(pdu: Pdu) -> bool:
    try:
        pdu.check_format()
    except ProtocolError:
        return False
    return True


def pdus_of(cls: type[Pdu]) -> st.SearchStrategy[Any]:
    """Well-formed PDUs of one class, with and without AHS and data."""
    values = {field.name: _values(cls, field.name, str(field.type)) for field in fields(cls)}
    return st.builds(cls, **values).filter(_well_formed)


pdus = st.sampled_from(CLASSES).flatmap(pdus_of)


def plain_scsi_commands() -> st.SearchStrategy[ScsiCommand]:
    """SCSI Commands without AHS: those of the fast path."""
    return pdus_of(ScsiCommand).filter(
        lambda pdu: (
            len(pdu.cdb) == 16 and pdu.bidirectional_read_expected_data_transfer_length is None
        )
    )


def wire(pdus: list[Pdu], header_digest: bool = False, data_digest: bool = False) -> bytes:
    """The byte stream of some PDUs."""
    return b"".join(
        bytes(buffer) for pdu in pdus for buffer in serialize(pdu, header_digest, data_digest)
    )


def decode_any(frame: Any) -> Pdu:
    """The PDU of a frame, whoever sent it, safe to keep after the next receive_buffer()."""
    cls = {**INITIATOR_PDUS, **TARGET_PDUS}.get(frame.opcode)
    if cls is None:
        raise ProtocolError(f"opcode {frame.opcode:#04x}")
    pdu = cls.decode(frame.header, frame.ahs, frame.data)
    pdu.data = bytes(pdu.data)
    return pdu


def feed(framer: Framer, chunk: bytes) -> list[Pdu]:
    """Give the bytes to a framer as a socket would, and take every frame out."""
    found: list[Pdu] = []
    while chunk:
        buffer = framer.receive_buffer()
        count = min(len(buffer), len(chunk))
        buffer[:count] = chunk[:count]
        framer.bytes_received(count)
        chunk = chunk[count:]
        while (frame := framer.next_frame()) is not None:
            assert frame.data_digest_ok
            found.append(decode_any(frame))
    return found
