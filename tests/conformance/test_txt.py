# SPDX-License-Identifier: Apache-2.0
"""Text in full feature phase: what the tests of exchanges and of their place in a session do not
show alone (RFC 7143 6.2, 6.4, 11.10, 11.11)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pyscsi_init.errors import ConnectionLost, ProtocolError, TaskRejected
from pyscsi_init.login.text import decode_pairs, encode_pairs
from pyscsi_init.pdu import DataOut, ScsiCommand, TextRequest
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import LUN_5, RESERVED, Issued, Script

ASKED = {"InitialR2T": "Yes", "ImmediateData": "No"}
LIMIT = "MaxRecvDataSegmentLength"
QUIET = Settings(noop_interval=0)


def data_out_sizes(script: Script, length: int = 4096) -> set[int]:
    """The data segments of a write whose data is asked for."""
    script.write(bytes(length))
    command = script.one(ScsiCommand)
    script.send(script.r2t(command, 0, length))
    data = script.take()
    assert all(isinstance(pdu, DataOut) for pdu in data)
    script.send(script.response(command))
    return {len(pdu.data) for pdu in data}


@pytest.mark.parametrize("window", [64, 1])
def test_txt_001_the_i_bit_stays(window: int) -> None:
    """RFC 7143 11.10: tag and I bit are those of the first request to the end, whatever the window
    does meanwhile; where the bit is not set each request takes a CmdSN."""
    script = Script(QUIET, window=window).log_in()
    if window == 1:
        script.read(0)
        script.take()
    ask = script.ask([("X-a", "1")])
    requests = []
    script.set_window(64)
    for part in range(4):
        due = script.exp_cmd_sn
        request = script.one(TextRequest)
        requests.append(request)
        assert request.immediate == (window == 1)
        assert (request.cmd_sn, script.exp_cmd_sn) == (due, due + (window != 1))
        assert script.take() == [], "one request at a time"
        last = {} if part == 3 else {"final": False, "target_transfer_tag": 7 + part, "lun": LUN_5}
        script.send(script.text(request, [(f"X-{part}", "x")], **last))
    assert len({request.initiator_task_tag for request in requests}) == 1
    assert [request.target_transfer_tag for request in requests] == [RESERVED, 7, 8, 9]
    assert [bytes(request.lun) for request in requests[1:]] == [LUN_5] * 3
    assert ask.done
    assert [name for name, _ in ask.text.pairs] == ["X-0", "X-1", "X-2", "X-3"]


def test_txt_002_the_end_before_the_request_has_ended() -> None:
    """RFC 7143 11.11.1: F=1 does not answer F=0."""
    script = Script(QUIET, MaxRecvDataSegmentLength="512").log_in()
    ask = script.ask([("X-a", "v" * 1000)])
    request = script.one(TextRequest)
    assert (request.final, request.continue_) == (False, True)
    script.send(script.text(request, []))
    assert isinstance(script.ended().error, ProtocolError)
    assert ask.done
    assert ask.error is not None


def test_txt_003_what_we_declared_does_not_hold_after_a_reject() -> None:
    """RFC 7143 6.4, 7.12: the limits are the old ones in both directions."""
    script = Script(Settings(max_recv_data_segment_length=512), **ASKED).log_in()
    ask = script.ask([(LIMIT, "65536")])
    script.send(script.reject(script.one(TextRequest), 4))
    assert isinstance(ask.error, TaskRejected)
    read = script.read(512)
    last = {"final": True, "status_present": True}
    script.send(script.data_in(script.one(ScsiCommand), 0, bytes(512), **last))
    assert (read.done, read.error) == (True, None)
    assert data_out_sizes(script, 16384) == {8192}
    script.read(516)
    script.send(script.data_in(script.one(ScsiCommand), 0, bytes(516), **last))
    assert isinstance(script.ended().error, ProtocolError)


def test_txt_003_half_an_answer_and_then_a_reject() -> None:
    """RFC 7143 6.4: nothing of an exchange holds before its end; the next one begins anew, with the
    reserved tag."""
    script = Script(QUIET, **ASKED).log_in()
    ask = script.ask([])
    request = script.one(TextRequest)
    part = script.text(request, [(LIMIT, "512")], final=False, target_transfer_tag=3)
    script.send(part)
    continued = script.one(TextRequest)
    assert data_out_sizes(script, 16384) == {8192}
    script.send(script.reject(continued, 4))
    assert isinstance(ask.error, TaskRejected)
    assert data_out_sizes(script, 16384) == {8192}
    script.ask([])
    again = script.one(TextRequest)
    assert again.target_transfer_tag == RESERVED
    assert again.initiator_task_tag != request.initiator_task_tag
    script.send(script.text(again, []))
    assert data_out_sizes(script, 16384) == {8192}


@pytest.mark.parametrize("fast", [True, False])
def test_txt_004_the_target_takes_less_from_now_on(fast: bool) -> None:
    """RFC 7143 13.12: its MaxRecvDataSegmentLength, declared in a text response, bounds immediate
    and asked-for data, after the exchange and not before."""
    script = Script(QUIET).log_in()
    script.machine.fast.enabled = fast
    script.machine.fast.review()
    script.ask([])
    request = script.one(TextRequest)
    script.write(bytes(4096))
    assert len(script.one(ScsiCommand).data) == 4096
    script.send(script.text(request, [(LIMIT, "512")]))
    script.write(bytes(4096))
    command, *data = script.take()
    assert {len(pdu.data) for pdu in (command, *data)} == {512}
    script.send(script.r2t(command, 0, 1024))
    assert [len(pdu.data) for pdu in script.take()] == [512, 512]


ILLEGAL = [
    [("MaxBurstLength", "512")],
    [("HeaderDigest", "CRC32C")],
    [(LIMIT, "512"), (LIMIT, "1024")],
    [(LIMIT, "511")],
]


@pytest.mark.parametrize("pairs", ILLEGAL, ids=str)
def test_txt_004_what_may_not_be_said_in_full_feature_phase(pairs: list[tuple[str, str]]) -> None:
    """RFC 7143 6.4, 13: keys of the login phase, a key twice, a value out of range: the negotiation
    fails as a whole, and nothing of it holds."""
    script = Script(QUIET, **ASKED).log_in()
    before = script.machine.parameters
    ask = script.ask([])
    script.send(script.text(script.one(TextRequest), pairs))
    assert isinstance(script.ended().error, ProtocolError)
    assert ask.error is not None
    assert script.machine.parameters == before
    script.log_in()
    script.machine.resume(script.now)
    assert data_out_sizes(script, 16384) == {8192}


def cuts(text: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every way to cut a text in two."""
    return ((text[:place], text[place:]) for place in range(1, len(text)))


def test_txt_005_long_both_ways() -> None:
    """RFC 7143 6.2, 11.10.2: 2 KiB and more in PDUs of 512 bytes, C=1 and F=0 until the last, each
    answered by an empty response; and the same back, each part asked for by an empty request."""
    settings = Settings(noop_interval=0, max_recv_data_segment_length=512)
    script = Script(settings, MaxRecvDataSegmentLength="512").log_in()
    said = [(f"X-com.example.key{number}", "v" * 200) for number in range(12)]
    heard = [(f"X-com.example.answer{number}", "w" * 200) for number in range(12)]
    ask = script.ask(said)
    text = b""
    while True:
        request = script.one(TextRequest)
        assert len(request.data) <= 512
        text += bytes(request.data)
        assert request.continue_ != request.final
        if request.final:
            break
        assert len(request.data) == 512
        script.send(script.text(request, [], final=False, target_transfer_tag=5))
    assert decode_pairs(text) == said
    answer = encode_pairs(heard)
    parts = [answer[start : start + 512] for start in range(0, len(answer), 512)]
    assert len(parts) > 4
    for part in parts[:-1]:
        more = {"final": False, "continue_": True, "target_transfer_tag": 6}
        script.send(script.text(request, part, **more))
        request = script.one(TextRequest)
        assert (request.final, request.continue_, bytes(request.data)) == (True, False, b"")
        assert request.target_transfer_tag == 6
    script.send(script.text(request, parts[-1]))
    assert (ask.done, ask.error) == (True, None)
    assert ask.text.pairs == heard


def test_txt_005_wherever_it_is_cut() -> None:
    """RFC 7143 6.2: in the name, at the equals sign, in the value, before and after the NUL."""
    script = Script(QUIET, discovery=True).log_in()
    pairs = [("TargetName", "iqn.2026-11.example:a"), ("TargetAddress", "127.0.0.1:3260,1")]
    for first, rest in cuts(encode_pairs(pairs)):
        ask: Issued = script.ask([("SendTargets", "All")])
        request = script.one(TextRequest)
        more = {"final": False, "continue_": True, "target_transfer_tag": 1}
        script.send(script.text(request, first, **more))
        script.send(script.text(script.one(TextRequest), rest))
        assert ask.text.pairs == pairs, first


def test_txt_005_a_target_that_never_stops_asking_is_left() -> None:
    """RFC 7143 11.10: no answer in time is the end of the connection, not a loop."""
    script = Script(QUIET, MaxRecvDataSegmentLength="512").log_in()
    ask = script.ask([("X-a", "v" * 2000)])
    script.send(script.text(script.one(TextRequest), [], final=False, target_transfer_tag=5))
    script.one(TextRequest)
    script.pass_time(31)
    assert isinstance(ask.error, ConnectionLost)
