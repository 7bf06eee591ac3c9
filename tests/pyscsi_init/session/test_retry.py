# SPDX-License-Identifier: Apache-2.0
"""A slow command is not a lost one (error recovery level 1)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import NopOut, ScsiCommand
from pyscsi_init.session import ConnectionEnded
from tests.conformance.levels import Command, Played


def quiet() -> Played:
    """Level 1 without a keepalive."""
    played = Played(1)
    played.machine.settings = replace(played.settings, noop_interval=0)
    assert played.machine.connection is not None
    played.machine.connection.keepalive.interval = 0
    return played


@pytest.mark.parametrize("answers", [True, False])
def test_a_slow_command_is_left_alone_without_a_keepalive(answers: bool) -> None:
    """The target has it and says so when it is asked, or says nothing at all."""
    played = quiet()
    flush = Command(512, timeout=180.0)
    command = played.submit(flush)
    asked = 0
    for _ in range(100):
        played.pass_time(1.0)
        for pdu in played.take():
            assert isinstance(pdu, NopOut)
            asked += 1
            if answers:
                played.send(played.nop_in(initiator_task_tag=pdu.initiator_task_tag))
    assert asked == 1
    assert not played.lost
    played.send(*played.pieces(command, bytes(512), 512, status=True))
    assert flush.good


def test_a_command_that_is_lost_is_sent_again_without_a_keepalive() -> None:
    played = quiet()
    command = played.submit(Command(512, timeout=180.0))
    retries = []
    while not played.lost:
        played.pass_time(1.0)
        for pdu in played.take():
            if isinstance(pdu, NopOut):
                fields = {"exp_cmd_sn": command.cmd_sn, "max_cmd_sn": command.cmd_sn + 63}
                tag = pdu.initiator_task_tag
                played.send(played.nop_in(initiator_task_tag=tag, **fields))
            else:
                assert isinstance(pdu, ScsiCommand)
                retries.append(pdu.cmd_sn)
    assert retries == [command.cmd_sn] * 8
    ended = played.events[-1]
    assert isinstance(ended, ConnectionEnded)
    assert isinstance(ended.error, ProtocolError)
