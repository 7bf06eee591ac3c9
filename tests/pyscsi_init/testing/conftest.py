# SPDX-License-Identifier: Apache-2.0
"""A logical unit that commands are given to without a wire."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyscsi_init.testing import LogicalUnit, Nexus, RamDisk
from pyscsi_init.testing.commands import Command
from pyscsi_init.testing.conditions import Result
from pyscsi_init.testing.execution import execute

ALICE = Nexus("iqn.2024-01.example.host:alice", b"\x80\0\0\0\0\x01", "iqn.2024-01.example:t", 1)
BOB = Nexus("iqn.2024-01.example.host:bob", b"\x80\0\0\0\0\x02", "iqn.2024-01.example:t", 1)

Run = Callable[..., Result]


@pytest.fixture
def alice() -> Nexus:
    return ALICE


@pytest.fixture
def bob() -> Nexus:
    return BOB


@pytest.fixture
def unit() -> LogicalUnit:
    unit = LogicalUnit(RamDisk(1 << 20, thin=True, serial="ABC123"))
    unit.attach(ALICE)
    unit.attach(BOB)
    return unit


@pytest.fixture
def run(unit: LogicalUnit) -> Run:
    """``run(cdb, data_out, nexus=...)`` executes one command on the unit."""

    def run(cdb: str | bytes, data_out: bytes = b"", *, nexus: Nexus = ALICE) -> Result:
        raw = bytes.fromhex(cdb) if isinstance(cdb, str) else cdb
        command = Command(
            cdb=raw.ljust(16, b"\0"),
            nexus=nexus,
            data_out=data_out,
            data_out_offered=len(data_out),
            luns=(0, 5),
        )
        return execute(unit, command)

    return run
