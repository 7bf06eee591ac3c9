# SPDX-License-Identifier: Apache-2.0
"""What is told of a lost connection is what came and what had no answer, and nothing older."""

from __future__ import annotations

import re

import pytest

from pyscsi_init.pdu import DataIn, ScsiCommand
from pyscsi_init.session import describe_remains
from pyscsi_init.session.remains import MAX_RECEIVED
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import Script


class Watched(Script):
    """A script that is logged in, and keeps its connection to ask what is left of it."""

    def __init__(self, **keys: str) -> None:
        super().__init__(
            Settings(header_digest=("None", "CRC32C"), data_digest=("None", "CRC32C")), **keys
        )
        self.log_in()
        assert self.machine.connection is not None
        self.connection = self.machine.connection

    def remains(self) -> list[str]:
        assert self.lost
        return describe_remains(self.machine, self.connection)

    def end(self) -> list[str]:
        """The target closes: the pump has asked for buffers before it hears of that."""
        self.machine.receive_buffers()
        self.machine.receive_eof(self.now)
        return self.remains()

    def reads(self, count: int) -> list[ScsiCommand]:
        for _ in range(count):
            self.read(512)
        return self.take()

    def whole(self, command: ScsiCommand) -> DataIn:
        """All of the data, with status."""
        return self.data_in(command, 0, bytes(512), status_present=True, final=True)


def received(lines: list[str]) -> list[tuple[str, int]]:
    """Name and tag of each PDU."""
    found = (re.match(r"received: (.*) flags=.* ITT=(\w+) ", line) for line in lines)
    return [(match[1], int(match[2], 16)) for match in found if match]


@pytest.mark.parametrize("digest", ["None", "CRC32C"])
def test_the_burst_that_ended_it(digest: str) -> None:
    script = Watched(HeaderDigest=digest, DataDigest=digest)
    one, other, third = script.reads(3)
    bad = script.response(third, stat_sn=script.stat_sn + 9)
    script.send(script.whole(one), script.whole(other), bad)
    lines = script.remains()
    tags = [command.initiator_task_tag for command in (one, other, third)]
    names = ["Data In", "Data In", "Scsi Response"]
    assert received(lines) == list(zip(names, tags, strict=True))
    assert lines[0].startswith(f"ExpStatSN={script.stat_sn} ")
    assert bad.encode().hex(" ", 4) in lines[3]
    (left,) = (line for line in lines if line.startswith("sent, no answer: 28"))
    assert f"ITT={third.initiator_task_tag:08x} CmdSN={third.cmd_sn} bytes=512" in left


@pytest.mark.parametrize("digest", ["None", "CRC32C"])
def test_the_burst_before_the_end_of_the_stream(digest: str) -> None:
    """The marks of the memory have gone back by then; older bytes behind the burst are not told."""
    script = Watched(HeaderDigest=digest, DataDigest=digest)
    commands = script.reads(6)
    script.send(*(script.whole(command) for command in commands))
    (last,) = script.reads(1)
    script.send(script.whole(last))
    assert received(script.end()) == [("Data In", last.initiator_task_tag)]


def test_a_burst_without_status() -> None:
    script = Watched()
    script.send(*(script.whole(command) for command in script.reads(4)))
    script.read(1024)
    (command,) = script.take()
    script.send(script.data_in(command, 0, bytes(512), final=False))
    assert received(script.end()) == [("Data In", command.initiator_task_tag)]


def test_a_pdu_that_is_too_long() -> None:
    script = Watched()
    header = bytes([0x25, 0x80, 0, 0, 0, 0xFF, 0xFF, 0xFF]) + bytes(40)
    script.feed(header)
    assert script.remains()[1] == f"received, not taken: 48 bytes, {header.hex(' ', 4)}"


def test_there_is_an_end_to_what_is_told() -> None:
    script = Watched()
    commands = script.reads(64)
    script.send(*(script.whole(command) for command in commands), *[script.nop_in()] * 40)
    assert received(script.end())[-1] == ("Data In", commands[-1].initiator_task_tag)
    script = Watched()
    script.reads(64)
    script.send(*[script.nop_in()] * 100, script.nop_in(stat_sn=script.stat_sn + 5))
    lines = script.remains()
    assert len(received(lines)) == MAX_RECEIVED
    assert lines[-1] == "sent, no answer: 32 more"


def test_nothing_came() -> None:
    """What the login left is the target's last word."""
    script = Watched()
    tag = script.login_requests[-1].initiator_task_tag
    assert received(script.end()) == [("Login Response", tag)]
