# SPDX-License-Identifier: Apache-2.0
"""The rules of the login phase, of discovery, of retries and of a second login."""

from __future__ import annotations

import pytest

from pyscsi_init.login.text import encode_pairs
from pyscsi_init.pdu import LoginRequest, NopOut, SnackRequest, TextRequest

from .conversation import Conversation
from .test_invariants import LUN_5, Act, command

IN_LOGIN: dict[str, tuple[Act, str]] = {
    "another PDU": (lambda talk: command(talk), "Legality: only Login Requests"),
    "two at once": (
        lambda talk: [talk.ask(LoginRequest, cmd_sn=1000) for _ in range(2)],
        "Keys: a second Login Request before",
    ),
    "another CmdSN": (
        lambda talk: (
            talk.answer(talk.peer.login_answer(talk.ask(LoginRequest, cmd_sn=1000))),
            talk.ask(LoginRequest, cmd_sn=1001),
        ),
        "CommandNumbers: Login Request with CmdSN 1001",
    ),
    "another tag": (
        lambda talk: (
            talk.answer(talk.peer.login_answer(talk.ask(LoginRequest, cmd_sn=1000))),
            talk.ask(LoginRequest, cmd_sn=1000, initiator_task_tag=9),
        ),
        "Keys: initiator_task_tag changed",
    ),
    "key in two requests": (
        lambda talk: [
            talk.answer(
                talk.peer.login_answer(
                    talk.ask(LoginRequest, cmd_sn=1000, data=encode_pairs([("MaxBurstLength", n)]))
                )
            )
            for n in ("512", "1024")
        ],
        "Keys: MaxBurstLength is sent twice",
    ),
    "too long": (
        lambda talk: talk.ask(LoginRequest, cmd_sn=1000, data=bytes(8193)),
        "Format: DataSegmentLength 8193 is more than the 8192",
    ),
    "no text": (
        lambda talk: talk.ask(LoginRequest, cmd_sn=1000, data=b"InitiatorName"),
        "Keys: text that cannot be read",
    ),
}


@pytest.mark.parametrize("name", IN_LOGIN)
def test_each_rule_of_the_login_phase(name: str) -> None:
    act, complaint = IN_LOGIN[name]
    talk = Conversation()
    act(talk)
    assert talk.complaints
    assert talk.complaints[0].startswith(complaint)


def test_discovery_knows_text_and_logout_only() -> None:
    talk = Conversation().log_in(discovery=True)
    talk.answer(talk.peer.nop_in(target_transfer_tag=4))
    talk.ask(NopOut, immediate=True, target_transfer_tag=4)
    talk.ask(TextRequest, initiator_task_tag=4, data=encode_pairs([("SendTargets", "All")]))
    assert talk.complaints == []
    talk.ask(NopOut, immediate=True, initiator_task_tag=5)
    assert talk.complaints == ["Legality: a discovery session knows only Text and Logout Requests"]


def test_the_same_command_again_is_a_retry() -> None:
    """RFC 7143 7.2.1: only ExpStatSN may differ."""
    talk = Conversation().log_in()
    first = command(talk)
    talk.answer(talk.peer.nop_in(exp_cmd_sn=1000))
    talk.say(first)
    assert talk.complaints == []
    command(talk, cmd_sn=first.cmd_sn, lun=LUN_5)
    assert talk.complaints[0].startswith("CommandNumbers: CmdSN 1000, 1001 comes next")


def test_no_retry_of_what_was_acknowledged() -> None:
    talk = Conversation().log_in()
    first = command(talk)
    talk.answer(talk.peer.nop_in(exp_cmd_sn=1001))
    talk.say(first)
    assert talk.complaints[0].startswith("CommandNumbers: CmdSN 1000, 1001 comes next")


def test_what_is_allowed_is_no_violation() -> None:
    talk = Conversation().log_in()
    talk.peer.invariants.allowed.add("Legality")
    talk.ask(SnackRequest)
    talk.peer.invariants.check()


def test_new_numbers_after_a_new_login() -> None:
    """A leading login begins a session: its tags and CmdSN are free to be used again."""
    talk = Conversation().log_in()
    command(talk)
    talk.peer.begin(1, stat_sn=7)
    talk.cmd_sn, talk.exp_stat_sn = 5, 0
    request = talk.ask(LoginRequest, cmd_sn=5, transit=True, current_stage=1, next_stage=3)
    talk.peer.encode(talk.peer.login_answer(request))
    talk.exp_stat_sn = 8
    command(talk)
    assert talk.complaints == []
