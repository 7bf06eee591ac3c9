# SPDX-License-Identifier: Apache-2.0
"""Each rule finds what breaks it, and an honest conversation breaks none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyscsi_init.login.text import encode_pairs
from pyscsi_init.pdu import (
    DataIn,
    DataOut,
    LoginRequest,
    LogoutRequest,
    NopOut,
    ScsiCommand,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
)
from pyscsi_init.testing.scripted import Digest, Violation, raw

from .conversation import Conversation

LUN_5 = b"\x00\x05" + bytes(6)


def command(talk: Conversation, **fields: Any) -> Any:
    """A command, sent."""
    return talk.ask(ScsiCommand, **{"initiator_task_tag": 2, **fields})


def write(talk: Conversation, length: int, immediate: int = 0, **fields: Any) -> Any:
    """A write, sent."""
    given = {"write": True, "expected_data_transfer_length": length, "data": bytes(immediate)}
    return command(talk, **given | fields)


def data_out(talk: Conversation, length: int, **fields: Any) -> Any:
    """Write data, sent."""
    return talk.ask(DataOut, **{"initiator_task_tag": 2, "data": bytes(length), **fields})


def test_an_honest_conversation() -> None:
    """Digests, all kinds of requests, unsolicited and solicited data, a number that wraps."""
    talk = Conversation(
        HeaderDigest="CRC32C", DataDigest="CRC32C", FirstBurstLength="4096", InitialR2T="No"
    )
    talk.cmd_sn = 0xFFFFFFFE
    talk.log_in()
    assert talk.peer.parameters.header_digest
    read = command(talk, read=True, expected_data_transfer_length=512)
    talk.cmd_sn &= 0xFFFFFFFF
    talk.ask(NopOut, immediate=True, initiator_task_tag=3, data=b"abc")
    talk.answer(talk.peer.data_in(read, 0, bytes(512), final=True, status_present=True))
    write(talk, 10000, 2048, final=False, initiator_task_tag=4)
    talk.cmd_sn &= 0xFFFFFFFF
    first = talk.peer.inbox[-1]
    assert isinstance(first, ScsiCommand)
    data_out(talk, 2048, initiator_task_tag=4, buffer_offset=2048, final=True)
    talk.answer(talk.peer.r2t(first, 4096, 5904, lun=LUN_5))
    data_out(talk, 4000, initiator_task_tag=4, buffer_offset=4096, target_transfer_tag=0x51)
    data_out(
        talk,
        1904,
        initiator_task_tag=4,
        buffer_offset=8096,
        target_transfer_tag=0x51,
        data_sn=1,
        final=True,
    )
    talk.answer(talk.peer.response(first))
    talk.ask(TaskManagementRequest, immediate=True, function=5, lun=LUN_5, initiator_task_tag=2)
    talk.ask(TextRequest, initiator_task_tag=5, data=encode_pairs([("SendTargets", "")]))
    talk.ask(LogoutRequest, immediate=True, initiator_task_tag=6)
    assert talk.complaints == []


Act = Callable[[Conversation], object]

WRONG: dict[str, tuple[dict[str, str], Act, str]] = {
    "reserved bits": (
        {},
        lambda talk: talk.say(raw(talk.numbered(NopOut, immediate=True), octets={3: 0x10})),
        "Format: reserved bits of byte 3",
    ),
    "I bit of Data-Out": (
        {},
        lambda talk: (
            write(talk, 8, final=False),
            talk.say(
                raw(
                    talk.numbered(DataOut, initiator_task_tag=2, final=True, data=bytes(8)),
                    octets={0: 0x45},
                )
            ),
        ),
        "Format: reserved bits of byte 0",
    ),
    "a bit that is always set": (
        {},
        lambda talk: talk.say(raw(talk.numbered(NopOut, immediate=True), octets={1: 0})),
        "Format: the first bit of byte 1",
    ),
    "padding": (
        {},
        lambda talk: talk.say(
            raw(talk.numbered(NopOut, immediate=True, initiator_task_tag=4, data=b"abc"), pad=b"x")
        ),
        "Format: padding is not zero",
    ),
    "data digest": (
        {"DataDigest": "CRC32C"},
        lambda talk: talk.say(
            raw(talk.numbered(NopOut, immediate=True, data=b"abcd"), data_digest=Digest.WRONG)
        ),
        "Format: the data digest",
    ),
    "header digest": (
        {"HeaderDigest": "CRC32C"},
        lambda talk: talk.say(
            raw(talk.numbered(NopOut, immediate=True), header_digest=Digest.WRONG)
        ),
        "Format: the header digest",
    ),
    "DataSegmentLength": (
        {"MaxRecvDataSegmentLength": "512"},
        lambda talk: write(talk, 1024, 1024),
        "Format: DataSegmentLength 1024 is more than the 512",
    ),
    "a target's opcode": (
        {},
        lambda talk: talk.say(DataIn(initiator_task_tag=1)),
        "Format: no PDU that an initiator may send",
    ),
    "an unknown opcode": (
        {},
        lambda talk: talk.say(b"\x1f" + bytes(47)),
        "Format: no PDU that an initiator may send",
    ),
    "login in full feature phase": (
        {},
        lambda talk: talk.ask(LoginRequest, cmd_sn=1000),
        "Legality: a Login Request in full feature phase",
    ),
    "SNACK at level 0": (
        {},
        lambda talk: talk.ask(SnackRequest),
        "Legality: SNACK",
    ),
    "function without a task": (
        {},
        lambda talk: talk.ask(
            TaskManagementRequest, immediate=True, function=1, initiator_task_tag=4
        ),
        "Legality: function 1 with",
    ),
    "function of level 2": (
        {},
        lambda talk: talk.ask(
            TaskManagementRequest, immediate=True, function=10, initiator_task_tag=4
        ),
        "Legality: function 10 needs",
    ),
    "after logout": (
        {},
        lambda talk: (
            talk.ask(LogoutRequest, immediate=True, initiator_task_tag=4),
            talk.ask(NopOut, immediate=True),
        ),
        "Legality: nothing may follow a Logout",
    ),
    "CmdSN gap": ({}, lambda talk: command(talk, cmd_sn=1001), "CommandNumbers: CmdSN 1001, 1000"),
    "CmdSN twice": (
        {},
        lambda talk: (command(talk), command(talk, cmd_sn=1000, initiator_task_tag=3)),
        "CommandNumbers: CmdSN 1000, 1001",
    ),
    "immediate CmdSN": (
        {},
        lambda talk: talk.ask(NopOut, immediate=True, cmd_sn=1001),
        "CommandNumbers: immediate with CmdSN 1001, 1000 is current",
    ),
    "window": (
        {},
        lambda talk: [command(talk, initiator_task_tag=tag) for tag in range(2, 67)],
        "CommandNumbers: CmdSN 1064 is beyond MaxCmdSN 1063",
    ),
    "ExpStatSN ahead": (
        {},
        lambda talk: command(talk, exp_stat_sn=502),
        "StatusNumbers: ExpStatSN 502 acknowledges more",
    ),
    "ExpStatSN back": (
        {},
        lambda talk: (command(talk), command(talk, initiator_task_tag=3, exp_stat_sn=500)),
        "StatusNumbers: ExpStatSN 500 goes back from 501",
    ),
    "ExpStatSN old": (
        {},
        lambda talk: (
            command(talk),
            talk.answer(talk.peer.response(command(talk, initiator_task_tag=3))),
            talk.answer(talk.peer.nop_in(target_transfer_tag=9)),
            talk.ask(NopOut, immediate=True, target_transfer_tag=9, exp_stat_sn=501),
        ),
        "StatusNumbers: ExpStatSN 501, although 502 was due",
    ),
    "tag in use": (
        {},
        lambda talk: (command(talk), command(talk)),
        "Tags: Initiator Task Tag 00000002h is in use",
    ),
    "reserved tag": (
        {},
        lambda talk: command(talk, initiator_task_tag=0xFFFFFFFF),
        "Tags: the reserved Initiator Task Tag",
    ),
    "two texts": (
        {},
        lambda talk: [talk.ask(TextRequest, initiator_task_tag=tag) for tag in (4, 5)],
        "Tags: a second Text Request",
    ),
    "key twice": (
        {},
        lambda talk: talk.ask(
            TextRequest, initiator_task_tag=4, data=encode_pairs([("X-a", "1"), ("X-a", "2")])
        ),
        "Keys: X-a is sent twice",
    ),
    "immediate data": (
        {"ImmediateData": "No"},
        lambda talk: write(talk, 512, 512),
        "Transfers: immediate data although",
    ),
    "immediate data of a read": (
        {},
        lambda talk: command(talk, data=bytes(8), expected_data_transfer_length=8, read=True),
        "Transfers: immediate data in a command that writes nothing",
    ),
    "first burst": (
        {"FirstBurstLength": "512"},
        lambda talk: write(talk, 4096, 1024),
        "Transfers: 1024 bytes of immediate data, at most 512",
    ),
    "unsolicited data": (
        {"InitialR2T": "Yes"},
        lambda talk: write(talk, 4096, final=False),
        "Transfers: F is 0, so unsolicited data would follow",
    ),
    "too much unsolicited": (
        {"FirstBurstLength": "512"},
        lambda talk: (write(talk, 4096, final=False), data_out(talk, 1024, final=True)),
        "Transfers: 512 bytes more than the 512",
    ),
    "too little unsolicited": (
        {"FirstBurstLength": "512"},
        lambda talk: (write(talk, 4096, final=False), data_out(talk, 256, final=True)),
        "Transfers: F is set with 256 of 512 bytes missing",
    ),
    "order of unsolicited data": (
        {},
        lambda talk: (
            write(talk, 1024, final=False),
            write(talk, 1024, final=False, initiator_task_tag=3),
            data_out(talk, 1024, initiator_task_tag=3, final=True),
        ),
        "Transfers: unsolicited data before that of the earlier task 00000002h",
    ),
    "LUN of unsolicited data": (
        {},
        lambda talk: (write(talk, 512, final=False), data_out(talk, 512, final=True, lun=LUN_5)),
        "Transfers: a LUN in unsolicited Data-Out",
    ),
    "not asked for": (
        {},
        lambda talk: (write(talk, 512), data_out(talk, 512, final=True, target_transfer_tag=1)),
        "Transfers: Data-Out with Target Transfer Tag 00000001h: not asked for",
    ),
    "data of a read": (
        {},
        lambda talk: (command(talk, read=True), data_out(talk, 4, final=True)),
        "Transfers: Data-Out for a task that writes nothing",
    ),
    "order of R2Ts": (
        {"MaxOutstandingR2T": "2"},
        lambda talk: (
            asked := write(talk, 1024),
            talk.answer(
                talk.peer.r2t(asked, 0, 512, target_transfer_tag=1),
                talk.peer.r2t(asked, 512, 512, target_transfer_tag=2, r2t_sn=1),
            ),
            data_out(talk, 512, buffer_offset=512, final=True, target_transfer_tag=2),
        ),
        "Transfers: an R2T is answered before an earlier one",
    ),
    "DataSN": (
        {},
        lambda talk: (
            talk.answer(talk.peer.r2t(write(talk, 512), 0, 512)),
            data_out(talk, 512, data_sn=1, final=True, target_transfer_tag=0x51),
        ),
        "Transfers: DataSN 1, 0 comes next",
    ),
    "Buffer Offset": (
        {},
        lambda talk: (
            talk.answer(talk.peer.r2t(write(talk, 512), 0, 512)),
            data_out(talk, 512, buffer_offset=4, final=True, target_transfer_tag=0x51),
        ),
        "Transfers: Buffer Offset 4, 0 comes next",
    ),
    "F is missing": (
        {},
        lambda talk: (
            talk.answer(talk.peer.r2t(write(talk, 512), 0, 512)),
            data_out(talk, 512, target_transfer_tag=0x51),
        ),
        "Transfers: F is not set in the last PDU",
    ),
    "half a word": (
        {},
        lambda talk: (
            talk.answer(talk.peer.r2t(write(talk, 512), 0, 512)),
            data_out(talk, 255, target_transfer_tag=0x51),
        ),
        "Transfers: 255 bytes in a PDU that is not the last",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_each_rule_finds_what_breaks_it(name: str) -> None:
    keys, act, complaint = WRONG[name]
    talk = Conversation(**keys).log_in()
    assert talk.complaints == []
    act(talk)
    assert talk.complaints, talk.peer.recorder.tail()
    assert talk.complaints[0].startswith(complaint)
    with pytest.raises(Violation, match="before it:"):
        talk.peer.invariants.check()
