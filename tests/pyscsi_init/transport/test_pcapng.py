# SPDX-License-Identifier: Apache-2.0
"""The capture file's bytes, read by Wireshark's dissectors and by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyscsi_init.transport.pcapng import (
    LONGEST_SEGMENT,
    Conversation,
    is_pcapng,
    packet_block,
    section,
    whole_blocks,
)
from tests.support import tshark

IPV4 = ("192.0.2.1", 50000), ("192.0.2.7", 3260)
IPV6 = ("fe80::1%eth0", 50000), ("2001:db8::7", 3260)


def nop(length: int, target: bool) -> bytes:
    """A NOP PDU with ``length`` bytes of data."""
    header = bytearray(48)
    header[0:2] = bytes([0x20 if target else 0x40, 0x80])
    header[5:8] = length.to_bytes(3, "big")
    header[16:24] = b"\0\0\0\1\xff\xff\xff\xff"
    return bytes(header) + bytes(length) + bytes(-length & 3)


def written(path: Path, local: tuple[str, int], remote: tuple[str, int]) -> Path:
    conversation = Conversation(local, remote)
    blocks = [section("test", "here")]
    now = 1_700_000_000_123_456_789
    for outward, packet in conversation.opening():
        blocks.append(packet_block(packet, now, outward=outward, comment="opens"))
    for outward in (True, False):
        for packet in conversation.data(outward, nop(LONGEST_SEGMENT * 2 + 7, not outward)):
            now += 1000
            blocks.append(packet_block(packet, now, outward=outward))
    blocks.append(packet_block(conversation.end(False, reset=False), now, outward=False))
    blocks.append(packet_block(conversation.end(True, reset=False), now, outward=True))
    path.write_bytes(b"".join(blocks))
    return path


@pytest.mark.parametrize(("local", "remote"), [IPV4, IPV6])
def test_wireshark_reads_it(
    tmp_path: Path, local: tuple[str, int], remote: tuple[str, int]
) -> None:
    file = written(tmp_path / "x.pcapng", local, remote)
    assert tshark.complaints(file) == []
    rows = tshark.fields(
        file, "frame.time_epoch", "tcp.seq", "tcp.ack", "tcp.len", "iscsi.opcode", "frame.comment",
        "tcp.flags.fin", "tcp.checksum.status", "ip.src", "ipv6.src", "tcp.srcport",
    )  # fmt: skip
    assert len(rows) == 3 + 3 + 3 + 2
    assert [row["frame.comment"] for row in rows[:4]] == [["opens"]] * 3 + [[]]
    assert rows[3]["frame.time_epoch"] == ["1700000000.123457789"]
    assert [int(row["tcp.len"][0]) for row in rows[3:6]] == [LONGEST_SEGMENT] * 2 + [48 + 7 + 1]
    length = 2 * LONGEST_SEGMENT + 56
    assert rows[6]["tcp.ack"] == [str(length + 1)]
    assert [row["iscsi.opcode"] for row in rows if row["iscsi.opcode"]] == [["0x00"], ["0x20"]]
    assert {row["tcp.checksum.status"][0] for row in rows} == {"1"}  # good
    sources = {(row["ip.src"] + row["ipv6.src"])[0] for row in rows}
    assert sources == {local[0].partition("%")[0], remote[0]}
    assert {row["tcp.srcport"][0] for row in rows} == {"50000", "3260"}


def test_whole_blocks(tmp_path: Path) -> None:
    data = written(tmp_path / "x", *IPV4).read_bytes()
    assert is_pcapng(data)
    assert not is_pcapng(data[4:])
    assert whole_blocks(data) == len(data)
    ends = [whole_blocks(data[:cut]) for cut in range(0, len(data), 13)]
    assert ends == sorted(ends)
    for end in set(ends):
        assert whole_blocks(data, end) == len(data)
    assert whole_blocks(b"\0" * 64) == 0


@pytest.mark.parametrize("payload", [b"", b"\0", b"\0\0", b"\xff\xff", b"\xff" * 7, b"abc"])
def test_checksums(payload: bytes) -> None:
    """RFC 1071, the plain way: the sum over pseudo header and segment is all ones."""
    conversation = Conversation(*IPV4)
    for packet in conversation.data(True, payload or b"\0"):
        assert ones_complement_sum(packet[:20]) == 0xFFFF
        pseudo = packet[12:20] + bytes([0, 6]) + (len(packet) - 20).to_bytes(2, "big")
        assert ones_complement_sum(pseudo + packet[20:]) == 0xFFFF


def ones_complement_sum(data: bytes) -> int:
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total
