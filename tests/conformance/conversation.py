# SPDX-License-Identifier: Apache-2.0
"""One session in which everything occurs once: each PDU of a target, and all that an initiator
sends at error recovery level 0."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyscsi_init.pdu import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    Pdu,
    ScsiCommand,
    TextRequest,
)
from pyscsi_init.session import TaskManagementFunction
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import LUN_5, Script

DIGESTS = Settings(header_digest=("CRC32C", "None"), data_digest=("CRC32C", "None"))
BOTH = {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}
SENSE = b"\0\x12" + bytes.fromhex("700006000000000a000000002a0900000000")

Wrap = Callable[[Pdu], Any]


def converse(wrap: Wrap = lambda pdu: pdu, settings: Settings | None = None, **keys: str) -> Script:
    """A session in which each PDU of a target comes once, as ``wrap`` makes it, and in which the
    initiator sends all that it ever sends at error recovery level 0."""
    script = Script(settings, cmd_sn=0x01020304, stat_sn=0x0A0B0C0D, **keys)
    script.connect()
    for _ in range(2):
        script.send(wrap(script.login_answer(script.one(LoginRequest))))
    read = script.read(510, lun=5)
    command = script.one(ScsiCommand)
    script.send(wrap(script.data_in(command, 0, bytes(range(255)) * 2)))
    script.send(wrap(script.response(command, exp_data_sn=1)))
    write = script.write(bytes(range(250)) * 4, lun=5)
    command = script.one(ScsiCommand)
    script.send(wrap(script.r2t(command, 512, 488)))
    assert type(script.take()[0]) is DataOut
    script.send(wrap(script.response(command, status=2, data=SENSE)))
    script.send(wrap(script.nop_in(target_transfer_tag=0x77, lun=LUN_5)))
    managed = script.manage(TaskManagementFunction.LOGICAL_UNIT_RESET, lun=5)
    script.send(wrap(script.async_message(0, lun=LUN_5, data=SENSE)))
    _, request = script.take()
    script.send(wrap(script.managed(request)))
    asked = script.ask([("X-a", "1")])
    script.send(wrap(script.text(script.one(TextRequest), [("X-a", "2")])))
    refused = script.read(512)
    script.send(wrap(script.reject(script.one(ScsiCommand), 4)))
    script.machine.request_logout(script.now)
    script.send(wrap(script.logged_out(script.one(LogoutRequest))))
    assert script.lost
    assert bytes(read.buffer) == bytes(range(255)) * 2
    assert (write.task.status, write.task.sense) == (2, SENSE[2:])
    assert (managed.request.response, asked.text.pairs) == (0, [("X-a", "2")])
    assert refused.error is not None
    return script


NARROW = {
    "MaxRecvDataSegmentLength": "512",
    "FirstBurstLength": "512",
    "InitialR2T": "Yes",
}
