# SPDX-License-Identifier: Apache-2.0
"""Text exchanges in full feature phase (RFC 7143 6.4, 11.10, 11.11)."""

from __future__ import annotations

from typing import Any

import pytest

from pyscsi_init.errors import ConnectionLost, LocalProtocolError, ProtocolError, TaskRejected
from pyscsi_init.pdu import DataOut, ScsiCommand, TextRequest
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import LUN_5, RESERVED, Issued, Script

QUIET = Settings(noop_interval=0)
ALL = [("SendTargets", "All")]
TARGETS = [(f"Target{kind}", f"{kind}-{n}") for n in range(8) for kind in ("Name", "Address")]


def begun(**keys: str) -> tuple[Script, Issued, TextRequest]:
    script = Script(QUIET, discovery=True, **keys).log_in()
    ask = script.ask(ALL)
    return script, ask, script.one(TextRequest)


def test_txt_001_one_exchange_in_four_parts() -> None:
    """RFC 7143 11.10.3, 11.10.4: the same tag all along; the first request has the reserved
    Target Transfer Tag, the next copy tag and LUN of the response."""
    script, ask, request = begun()
    assert request.final
    assert not request.continue_
    assert (request.target_transfer_tag, bytes(request.data)) == (RESERVED, b"SendTargets=All\0")
    first = request
    for part in range(4):
        last = part == 3
        script.send(
            script.text(
                request,
                TARGETS[part * 4 : part * 4 + 4],
                final=last,
                target_transfer_tag=RESERVED if last else 0x12345678,
                lun=LUN_5,
            )
        )
        if not last:
            request = script.one(TextRequest)
            assert request.final
            assert bytes(request.data) == b""
            assert request.initiator_task_tag == first.initiator_task_tag
            assert request.immediate == first.immediate
            assert request.target_transfer_tag == 0x12345678
            assert bytes(request.lun) == LUN_5
    assert ask.done
    assert ask.text.pairs == TARGETS
    assert script.take() == []


def test_txt_001_one_at_a_time() -> None:
    """RFC 7143 11.10: at most one text request is outstanding on a connection."""
    script, ask, request = begun()
    second = script.ask(ALL)
    assert isinstance(second.error, LocalProtocolError)
    assert script.take() == []
    script.send(script.text(request, []))
    assert ask.done
    assert isinstance(script.ask(ALL).error, type(None))


def test_txt_002_a_tag_with_the_final_answer_is_ignored() -> None:
    """RFC 7143 11.11.1: F=1 should come with the reserved tag."""
    script, ask, request = begun()
    script.send(script.text(request, TARGETS, target_transfer_tag=5))
    assert ask.done
    assert ask.error is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"final": False, "target_transfer_tag": RESERVED},
        {"final": True, "continue_": True},
        {"initiator_task_tag": 0x99},
    ],
    ids=str,
)
def test_txt_002_illegal_responses(wrong: dict[str, Any]) -> None:
    """RFC 7143 11.11.1, 11.11.2."""
    script, ask, request = begun()
    answer = script.text(request, [])
    for name, value in wrong.items():
        setattr(answer, name, value)
    script.send(answer)
    assert isinstance(script.ended().error, ProtocolError)
    assert ask.done


def test_txt_002_an_answer_without_end_is_refused() -> None:
    script, ask, request = begun()
    for _ in range(10_000):
        script.send(
            script.text(request, [("TargetName", "x" * 60_000)], final=False, target_transfer_tag=1)
        )
        if script.lost:
            break
        request = script.one(TextRequest)
    assert isinstance(script.ended().error, ProtocolError)
    assert ask.done


def test_txt_003_a_rejected_exchange_changes_nothing() -> None:
    """RFC 7143 6.4, 7.12: after a Reject all parameters are as they were."""
    script = Script(
        QUIET, InitialR2T="Yes", ImmediateData="No", MaxRecvDataSegmentLength="1024"
    ).log_in()
    before = script.machine.parameters
    ask = script.ask([("MaxRecvDataSegmentLength", "65536")])
    script.send(script.reject(script.one(TextRequest), 4))
    assert isinstance(ask.error, TaskRejected)
    assert script.machine.parameters == before
    # The request counted in CmdSN, and the target took it: no gap.
    script.write(bytes(4096))
    command = script.one(ScsiCommand)
    script.send(script.r2t(command, 0, 4096))
    assert {len(pdu.data) for pdu in script.take() if isinstance(pdu, DataOut)} == {1024}


def test_a_rejected_exchange_that_was_not_counted_leaves_a_gap() -> None:
    """RFC 7143 7.3, 4.2.2.1: no later command would pass; a new session closes the gap."""
    script, ask, request = begun()
    script.send(script.reject(request, 4, exp_cmd_sn=request.cmd_sn))
    assert ask.done
    assert isinstance(script.ended().error, ConnectionLost)


def test_txt_005_a_key_may_be_cut_anywhere() -> None:
    """RFC 7143 6.2: a response with C=1 is continued by the next."""
    script, ask, request = begun()
    data = b"TargetName=iqn.2026-11.example:a\0TargetAddress=127.0.0.1:3260,1\0"
    for part in (data[:40], data[40:]):
        answer = script.text(request, [])
        answer.data = part
        answer.final = part == data[40:]
        answer.continue_ = not answer.final
        answer.target_transfer_tag = RESERVED if answer.final else 1
        script.send(answer)
        if not answer.final:
            request = script.one(TextRequest)
            assert bytes(request.data) == b""
    assert ask.text.pairs == [
        ("TargetName", "iqn.2026-11.example:a"),
        ("TargetAddress", "127.0.0.1:3260,1"),
    ]


def test_no_answer_ends_the_connection() -> None:
    script, ask, _ = begun()
    script.pass_time(31)
    assert ask.done
    assert isinstance(ask.error, ConnectionLost)


def test_a_closed_window_makes_it_immediate() -> None:
    """RFC 7143 4.2.2.1: what is immediate passes a closed window."""
    script = Script(QUIET, window=1).log_in()
    script.read(0)
    script.take()
    script.ask([])
    request = script.one(TextRequest)
    assert request.immediate
    assert request.cmd_sn == 1001


def test_without_a_session_it_fails_at_once() -> None:
    script = Script(QUIET)
    assert isinstance(script.ask(ALL).error, ConnectionLost)
