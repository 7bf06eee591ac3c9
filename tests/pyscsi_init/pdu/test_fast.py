# SPDX-License-Identifier: Apache-2.0
"""The precompiled structures: 48 bytes each, fields in the documented order.

That they equal the declarations is proven in tests/properties/test_pdu_properties.py.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from pyscsi_init.pdu import DataIn, DataOut, Pdu, ReadyToTransfer, ScsiCommand, ScsiResponse, fast
from pyscsi_init.pdu.bhs import encode_declared

STRUCTURES = {
    "SCSI_COMMAND": (fast.SCSI_COMMAND, ScsiCommand),
    "SCSI_RESPONSE": (fast.SCSI_RESPONSE, ScsiResponse),
    "DATA_OUT": (fast.DATA_OUT, DataOut),
    "DATA_IN": (fast.DATA_IN, DataIn),
    "READY_TO_TRANSFER": (fast.READY_TO_TRANSFER, ReadyToTransfer),
}


def documented_fields(name: str) -> list[str]:
    source = Path(fast.__file__ or "").read_text()
    match = re.search(rf'^{name} = [^\n]*\n"""(.*?)"""', source, re.MULTILINE | re.DOTALL)
    assert match is not None
    text = re.sub(r"\(.*?\)", "", match[1], flags=re.DOTALL).replace(".", " ")
    return [field.strip() for field in text.split(",")]


@pytest.mark.parametrize("name", STRUCTURES)
def test_documented_order(name: str) -> None:
    """Each documented name stands where a PDU with only that field set has its value."""
    structure, cls = STRUCTURES[name]
    names = documented_fields(name)
    assert structure.size == 48
    assert len(structure.unpack(bytes(48))) == len(names)
    assert names[:2] == ["byte_0", "flags"]
    baseline = structure.unpack(encode_declared(_make(cls)))
    for index, field in enumerate(names):
        if field in ("byte_0", "flags", "priority", "lengths"):
            continue
        value = b"\x01" * len(baseline[index]) if isinstance(baseline[index], bytes) else 7
        found = structure.unpack(encode_declared(_make(cls, **{field: value})))
        assert found[index] == value
        assert [i for i, pair in enumerate(zip(found, baseline, strict=True)) if pair[0] != pair[1]]
        assert all(found[i] == baseline[i] for i in range(len(names)) if i != index)
    assert baseline[names.index("lengths")] == 0


@pytest.mark.parametrize("name", STRUCTURES)
def test_lengths_is_the_length_of_the_data(name: str) -> None:
    structure, cls = STRUCTURES[name]
    encoded = encode_declared(cls(data=bytes(0x010203)))
    assert structure.unpack(encoded)[documented_fields(name).index("lengths")] == 0x010203


def test_pri() -> None:
    """RFC 7144 5.1: the upper half of byte 2."""
    assert fast.SCSI_COMMAND.unpack(encode_declared(ScsiCommand(pri=9)))[2] == 9 << fast.PRI_SHIFT


@pytest.mark.parametrize(
    ("bit", "pdu"),
    [
        (fast.F_BIT, DataIn(final=True)),
        (fast.A_BIT, DataIn(acknowledge=True)),
        (fast.O_BIT, DataIn(residual_overflow=True)),
        (fast.U_BIT, DataIn(residual_underflow=True)),
        (fast.S_BIT, DataIn(status_present=True)),
        (fast.F_BIT | fast.R_BIT, ScsiCommand(read=True)),
        (fast.F_BIT | fast.W_BIT, ScsiCommand(write=True)),
        (fast.F_BIT | fast.ATTR_MASK, ScsiCommand(attr=7)),
        (fast.F_BIT | fast.BIDI_O_BIT, ScsiResponse(bidi_residual_overflow=True)),
        (fast.F_BIT | fast.BIDI_U_BIT, ScsiResponse(bidi_residual_underflow=True)),
    ],
)
def test_flags(bit: int, pdu: Pdu) -> None:
    assert encode_declared(pdu)[1] == bit


def test_the_i_bit() -> None:
    assert encode_declared(ScsiCommand(immediate=True))[0] == fast.I_BIT | 0x01


def test_structures_are_precompiled() -> None:
    assert all(isinstance(structure, struct.Struct) for structure, _ in STRUCTURES.values())


def _make(cls: type[Pdu], **fields: object) -> Pdu:
    return cls(**fields)  # type: ignore[arg-type]
