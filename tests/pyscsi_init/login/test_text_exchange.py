# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.10, 11.11 and 6.4: text in full feature phase."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.login import TextExchange, send_targets
from pyscsi_init.login.text import decode_pairs, encode_pairs
from pyscsi_init.pdu import RESERVED_TAG, TextRequest, TextResponse

LUN = bytes([0, 3, 0, 0, 0, 0, 0, 0])
RECORDS = [("TargetName", "iqn.2001-04.com.example:a"), ("TargetAddress", "10.0.0.1:3260,1")]
ANSWER = encode_pairs(RECORDS)


def exchange(pairs: list[tuple[str, str]] | None = None, **arguments: Any) -> TextExchange:
    return TextExchange(pairs or send_targets(), initiator_task_tag=9, **arguments)


def take(exchange: TextExchange) -> TextRequest:
    (request,) = exchange.requests()
    assert exchange.requests() == []
    assert request.initiator_task_tag == 9
    assert not (request.final and request.continue_)
    return request


def response(data: bytes = b"", **fields: Any) -> TextResponse:
    return TextResponse(**({"initiator_task_tag": 9, "data": data} | fields))


def more(data: bytes = b"", tag: int = 0x12345678, **fields: Any) -> TextResponse:
    return response(data, final=False, target_transfer_tag=tag, lun=LUN, **fields)


def test_txt_001_one_request_one_answer() -> None:
    text = exchange()
    request = take(text)
    assert (request.final, request.continue_, request.immediate) == (True, False, False)
    assert request.target_transfer_tag == RESERVED_TAG
    assert bytes(request.data) == b"SendTargets=All\0"
    assert not text.finished
    text.receive(response(ANSWER))
    assert text.finished
    assert text.pairs == RECORDS
    assert text.requests() == []


@pytest.mark.parametrize("continued", [False, True])
def test_txt_001_continuations_copy_tag_and_lun(continued: bool) -> None:
    text = exchange()
    parts = [ANSWER[:5], ANSWER[5:20], ANSWER[20:21], ANSWER[21:]]
    for number, part in enumerate(parts[:-1]):
        take(text)
        text.receive(more(part, tag=number, continue_=continued))
        assert not text.finished
    request = take(text)
    assert (request.target_transfer_tag, request.lun) == (2, LUN)
    assert (bytes(request.data), request.final, request.continue_) == (b"", True, False)
    text.receive(response(parts[-1]))
    assert text.pairs == RECORDS


def test_txt_002_a_tag_on_the_last_response_is_tolerated() -> None:
    text = exchange()
    take(text)
    text.receive(response(ANSWER, target_transfer_tag=0))
    assert text.pairs == RECORDS


@pytest.mark.parametrize(
    "answer",
    [
        response(final=False),
        response(final=True, continue_=True),
        response(initiator_task_tag=8),
        response(b"TargetName=x"),
        response(b"MaxBurstLength=512\0"),
        response(b"MaxRecvDataSegmentLength=1\0"),
    ],
    ids=["F=0 without a tag", "F and C", "other tag", "no NUL", "login key", "bad length"],
)
def test_txt_002_illegal_responses(answer: TextResponse) -> None:
    text = exchange()
    take(text)
    with pytest.raises(ProtocolError):
        text.receive(answer)
    assert not text.finished
    assert text.requests() == []


def test_txt_002_a_response_nobody_asked_for() -> None:
    text = exchange()
    with pytest.raises(ProtocolError):
        text.receive(response(ANSWER))
    text = exchange()
    take(text)
    text.receive(response(ANSWER))
    with pytest.raises(ProtocolError):
        text.receive(response(ANSWER))


def test_txt_005_a_long_request_is_split() -> None:
    pairs = [(f"X-com.example.k{number}", "v" * 100) for number in range(20)]
    text = exchange(pairs, max_data_segment_length=512)
    sent = b""
    while True:
        request = take(text)
        assert len(request.data) <= 512
        sent += bytes(request.data)
        if request.final:
            break
        assert request.continue_
        text.receive(more())
    assert decode_pairs(sent) == pairs
    text.receive(response())
    assert text.pairs == []


@pytest.mark.parametrize(
    "answer", [more(b"X=1\0"), more(continue_=True), response(), response(b"X=1\0")]
)
def test_txt_005_an_answer_to_half_a_request(answer: TextResponse) -> None:
    text = exchange([("X-a", "v" * 1000)], max_data_segment_length=512)
    take(text)
    with pytest.raises(ProtocolError):
        text.receive(answer)


def test_txt_004_the_declared_length_is_read_after_the_end() -> None:
    text = exchange([("MaxRecvDataSegmentLength", "65536")])
    take(text)
    with pytest.raises(LocalProtocolError):
        _ = text.declared_max_recv_data_segment_length
    text.receive(response(b"MaxRecvDataSegmentLength=512\0"))
    assert text.declared_max_recv_data_segment_length == 512
    text = exchange()
    take(text)
    text.receive(response(ANSWER))
    assert text.declared_max_recv_data_segment_length is None


def test_disc_006_five_thousand_targets() -> None:
    records = [
        pair
        for number in range(5000)
        for pair in (
            ("TargetName", f"iqn.2001-04.com.example:{number}"),
            ("TargetAddress", f"10.0.0.{number % 250}:3260,1"),
        )
    ]
    data = encode_pairs(records)
    text = exchange()
    for start in range(0, len(data), 8192):
        take(text)
        part = data[start : start + 8192]
        last = start + 8192 >= len(data)
        text.receive(response(part) if last else more(part, continue_=start % 3 == 0))
    assert text.pairs == records


def test_disc_006_an_answer_without_an_end() -> None:
    text = exchange(limit=2**16)
    for _ in range(65):
        take(text)
        text.receive(more(b"X=" + b"a" * 1000))
    take(text)
    with pytest.raises(ProtocolError, match="longer than"):
        text.receive(more(b"X=" + b"a" * 1000))


def test_disc_006_an_endless_answer_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyscsi_init.login.text_exchange.MAX_TEXT_RESPONSES", 50)
    text = exchange()
    for _ in range(50):
        take(text)
        text.receive(more())
    take(text)
    with pytest.raises(ProtocolError, match="PDUs"):
        text.receive(more())


@pytest.mark.parametrize(
    ("value", "data"),
    [("All", b"SendTargets=All\0"), ("", b"SendTargets=\0"), ("iqn.x", b"SendTargets=iqn.x\0")],
)
def test_disc_003_send_targets(value: str, data: bytes) -> None:
    assert encode_pairs(send_targets(value)) == data


@given(
    st.lists(
        st.builds(
            TextResponse,
            final=st.booleans(),
            continue_=st.booleans(),
            initiator_task_tag=st.sampled_from([9, 9, 9, 8]),
            target_transfer_tag=st.sampled_from([0, 1, RESERVED_TAG]),
            data=st.one_of(st.binary(max_size=40), st.just(ANSWER), st.just(b"")),
        ),
        max_size=8,
    )
)
def test_tmo_004_any_responses_raise_only_protocol_errors(responses: list[TextResponse]) -> None:
    text = exchange(limit=200)
    for answer in responses:
        if text.finished:
            break
        take(text)
        try:
            text.receive(answer)
        except ProtocolError:
            assert text.requests() == []
            return
