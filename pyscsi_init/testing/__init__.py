# SPDX-License-Identifier: Apache-2.0
"""An iSCSI target in Python: honest, and on request dishonest.

For tests of initiators (ours and others), for demonstrations, and as the second opinion on what a
PDU means: it shares the PDU codec and the text format with the initiator, and nothing else. It is
part of the public API, so that who builds on pyscsi_init can test without a storage array::

    from pyscsi_init.testing import RamDisk, Target, TargetServer

    target = Target("iqn.2024-01.example:disk", luns={0: RamDisk(64 << 20)})
    async with TargetServer([target]).running() as portal:
        held = target.faults.hold_writes(lba=0)
        ...
        held.release()

``python -m pyscsi_init.testing`` serves targets from the command line. It is not a storage server:
there is one connection per session, and no persistence but a file's.
"""

from __future__ import annotations

from .conditions import Nexus, SenseCode
from .disk import Disk, FileDisk, RamDisk
from .faults import READS, WRITES, CommandFacts, Faults, Hold, Rule
from .pdu_faults import PduRule
from .scripted import (
    Digest,
    Invariants,
    Peer,
    RawPdu,
    Recorder,
    ScriptedConnection,
    ScriptedTarget,
    Violation,
    raw,
)
from .server import Listener, TargetServer
from .session import Session
from .settings import Redirect, TargetChap, TargetSettings
from .target import Counters, Target
from .unit import LogicalUnit

__all__ = [
    "READS",
    "WRITES",
    "CommandFacts",
    "Counters",
    "Digest",
    "Disk",
    "Faults",
    "FileDisk",
    "Hold",
    "Invariants",
    "Listener",
    "LogicalUnit",
    "Nexus",
    "PduRule",
    "Peer",
    "RamDisk",
    "RawPdu",
    "Recorder",
    "Redirect",
    "Rule",
    "ScriptedConnection",
    "ScriptedTarget",
    "SenseCode",
    "Session",
    "Target",
    "TargetChap",
    "TargetServer",
    "TargetSettings",
    "Violation",
    "raw",
]
