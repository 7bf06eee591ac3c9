# SPDX-License-Identifier: Apache-2.0
"""The record of a unit: what crosses from one process to the next, and what is made of it there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyscsi_init.device.identity import ContentWitness, Identity
from pyscsi_init.device.record import UnitRecord
from pyscsi_init.errors import ConfigurationError, IdentityMismatch
from tests.pyscsi_init.device.test_identity import BLOCK, UUID_A, UUID_B, ext, head, xfs

IDENTITY = Identity(
    designators=("naa.600",),
    serial_number="1",
    vendor="V",
    product="P",
    block_size=512,
    size_bytes=1 << 20,
    witnesses=(f"ext.{UUID_A.hex()}",),
)


def handed_on(witness: ContentWitness) -> ContentWitness:
    """The witness after a way through JSON."""
    record = UnitRecord(IDENTITY, witness.length, witness.possible)
    text = json.dumps(record.to_json())
    again = UnitRecord.from_json(json.loads(text))
    assert again == record
    assert again.identity.witnesses == IDENTITY.witnesses
    return again.witness()


def test_the_next_process_knows_the_content_again() -> None:
    witness = handed_on(ContentWitness(bytes(head(ext(UUID_A)))))
    witness.check(bytes(head(ext(UUID_A), (4096, b"data"))))
    assert witness.stale  # what else stands there was not handed on
    for other in (head(ext(UUID_B)), head()):
        with pytest.raises(IdentityMismatch):
            witness.check(bytes(other))


def test_a_write_under_way_may_have_landed_or_not() -> None:
    witness = ContentWitness(bytes(head(ext(UUID_A))))
    offset, block = xfs(UUID_B)
    witness.write_started(offset, block, BLOCK)
    later = handed_on(witness)
    later.check(bytes(head(ext(UUID_A))))
    later.check(bytes(head(ext(UUID_A), xfs(UUID_B))))
    with pytest.raises(IdentityMismatch):
        later.check(bytes(head(ext(UUID_B))))


def test_what_was_forgotten_is_accepted() -> None:
    witness = ContentWitness(bytes(head(ext(UUID_A))))
    witness.forget()
    handed_on(witness).check(bytes(head(xfs(UUID_B))))


@pytest.mark.parametrize(
    "damage",
    [
        {"version": 99},
        {"designators": 1},
        {"size_bytes": "many"},
        {"possible": [1]},
        {"witness_bytes": None},
    ],
    ids=str,
)
def test_damage_is_not_read_as_something_else(damage: dict[str, Any]) -> None:
    values = UnitRecord(IDENTITY, 69632, None).to_json()
    with pytest.raises(ConfigurationError, match="unit record"):
        UnitRecord.from_json({**values, **damage})
    del values["serial_number"]
    with pytest.raises(ConfigurationError, match="unit record"):
        UnitRecord.from_json(values)
