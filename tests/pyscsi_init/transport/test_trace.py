# SPDX-License-Identifier: Apache-2.0
"""A traced session against a real target: Wireshark understands all of it, and finds no secret."""

from __future__ import annotations

import logging
import resource
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from pyscsi_init import Chap, LogicalUnit, Secret, Settings, open_lun
from pyscsi_init.errors import ConfigurationError, LoginError
from pyscsi_init.names import Portal
from pyscsi_init.testing import LogicalUnit as Unit
from pyscsi_init.testing import RamDisk, ScriptedTarget, Target, TargetChap, TargetServer
from pyscsi_init.transport import tracefile
from pyscsi_init.transport.trace import TracedSocket, without_unwritable_trace
from tests.support import tshark
from tests.support.logs import ExpectLogs
from tests.support.python_target import INITIATOR, MEBI, WAIT, make_target, until, url_of

pytestmark = pytest.mark.anyio

SECRET, MUTUAL = "not-to-be-seen-1", "nor-is-this-one-2"


class Traced:
    """A target, and where its sessions are traced."""

    def __init__(self, target: Target, address: str, file: Path) -> None:
        self.target = target
        self.address = address
        self.file = file
        self.port = int(address.rpartition(":")[2])
        self.settings = replace(WAIT, trace=str(file))

    @asynccontextmanager
    async def lun(self, **changes: Any) -> AsyncIterator[LogicalUnit]:
        chap = changes.pop("chap", None)
        async with open_lun(
            url_of(self.address),
            settings=replace(self.settings, **changes),
            initiator_name=INITIATOR,
            chap=chap,
        ) as unit:
            yield unit

    def column(self, name: str, only: str = "") -> list[str]:
        return tshark.column(self.file, name, only=only, port=self.port)

    def check(self) -> None:
        """Nothing that a dissector complains about."""
        assert tshark.complaints(self.file, port=self.port) == []


@asynccontextmanager
async def traced(tmp_path: Path, **settings: Any) -> AsyncIterator[Traced]:
    target = make_target(RamDisk(4 * MEBI), **settings)
    async with TargetServer([target]).running() as portal:
        yield Traced(target, str(portal.address), tmp_path / "trace.pcapng")


async def test_wireshark_understands_all_of_it(tmp_path: Path) -> None:
    async with traced(tmp_path) as trace:
        async with trace.lun() as lun:
            await lun.write(0, b"w" * MEBI)
            assert await lun.read(0, MEBI) == b"w" * MEBI
            await lun.flush()
        trace.check()
        opcodes = trace.column("iscsi.opcode")
        assert opcodes[0] == "0x03"
        assert opcodes[-2:] == ["0x06", "0x26"]
        assert {"0x01", "0x05", "0x21", "0x23", "0x25", "0x31"} <= set(opcodes)
        # Every byte is there, in its place: Wireshark has put the PDUs together again.
        sent = trace.column("iscsi.datasegmentlength", "iscsi.opcode == 0x05")
        immediate = trace.column("iscsi.datasegmentlength", "scsi_sbc.opcode == 0x2a")
        assert sum(int(length, 0) for length in sent + immediate) >= MEBI
        assert trace.column("tcp.flags.syn", "tcp.flags.syn == 1") == ["1", "1"]
        assert trace.column("tcp.dstport", "iscsi.opcode == 0x03")[0] == str(trace.port)
        comment = trace.column("frame.comment", "frame.number == 1")[0]
        assert INITIATOR in comment


@pytest.mark.parametrize("digests", [("CRC32C",), ("None",)])
async def test_digests(tmp_path: Path, digests: tuple[str, ...]) -> None:
    async with traced(tmp_path) as trace:
        async with trace.lun(header_digest=digests, data_digest=digests) as lun:
            await lun.write(0, b"d" * 100_000)
            await lun.read(0, 100_000)
        trace.check()
        assert bool(trace.column("iscsi.headerdigest32")) == (digests == ("CRC32C",))


async def test_a_lost_connection_and_the_next(tmp_path: Path) -> None:
    """Two streams, and the reason at the end of the first."""
    async with traced(tmp_path) as trace:
        async with trace.lun() as lun:
            (session,) = trace.target.sessions
            session.connection._put([bytes([0x3E]) + bytes(47)])  # no such opcode
            await until(lambda: lun.session.statistics.recoveries == 1)
            assert await lun.read(0, 4096) == bytes(4096)
        trace.check()
        assert sorted(set(trace.column("tcp.stream"))) == ["0", "1"]
        ends = trace.column("frame.comment", "tcp.stream == 0 && tcp.flags.fin == 1")
        assert "ProtocolError: opcode 3eh" in ends[0]


async def test_a_connection_that_is_not_tcp(tmp_path: Path) -> None:
    """A connector may make a socket without host and port."""
    disk = RamDisk(MEBI)
    async with ScriptedTarget().running() as target, anyio.create_task_group() as group:

        async def script() -> None:
            peer = await target.log_in()
            await peer.serve(Unit(disk))

        group.start_soon(script)
        settings = Settings(trace=str(tmp_path / "trace.pcapng"))
        async with open_lun(target.url(), settings=settings, connector=target.connect) as lun:
            await lun.write(0, b"x" * 4096)
        group.cancel_scope.cancel()
    assert disk.read(0, 4096) == b"x" * 4096
    assert b"x" * 4096 in (tmp_path / "trace.pcapng").read_bytes()


async def test_a_connection_that_is_reset_at_once(tmp_path: Path) -> None:
    """It has no peer any more when the trace looks; that is a failed login and no fault of ours."""

    async def connector(_portal: Portal, _seconds: float) -> socket.socket:
        with socket.create_server(("127.0.0.1", 0)) as server:
            sock = socket.create_connection(server.getsockname())
            peer, _ = server.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
        with pytest.raises(OSError, match="not connected"):
            sock.getpeername()
        sock.setblocking(False)
        return sock

    settings = Settings(trace=str(tmp_path / "trace.pcapng"))
    with pytest.raises(LoginError, match="the connection broke"):
        async with open_lun(url_of("192.0.2.7"), settings=settings, connector=connector):
            pass


async def test_a_failed_login_says_why(tmp_path: Path) -> None:
    async with traced(tmp_path) as trace:
        trace.target.faults.refuse_logins = [(2, 2)] * 3
        with pytest.raises(LoginError):
            async with trace.lun():
                pass
        trace.check()
        (end,) = trace.column("frame.comment", "tcp.flags.fin == 1")
        assert "AuthorizationFailed" in end


@pytest.mark.parametrize("algorithms", [(5,), (7,)])
async def test_no_secret_is_in_it(tmp_path: Path, algorithms: tuple[int, ...]) -> None:
    target = make_target(
        RamDisk(MEBI),
        chap=TargetChap(
            user="me", secret=SECRET.encode(), mutual_user="it", mutual_secret=MUTUAL.encode()
        ),
    )
    async with TargetServer([target]).running() as portal:
        trace = Traced(target, str(portal.address), tmp_path / "trace.pcapng")
        chap = Chap(
            user="me",
            secret=Secret(SECRET),
            mutual_user="it",
            mutual_secret=Secret(MUTUAL),
            algorithms=algorithms,
        )
        async with trace.lun(chap=chap) as lun:
            await lun.read(0, 4096)
        trace.check()
        values = trace.column("iscsi.keyvalue")
        answers = [value for value in values if value.startswith("CHAP_R=")]
        assert len(answers) == 2
        for answer in answers:
            assert set(answer.removeprefix("CHAP_R=")) == {"*"}
            assert len(answer) == len("CHAP_R=0x") + (64 if algorithms == (7,) else 32)
        assert "CHAP_N=me" in values
        assert SECRET.encode() not in trace.file.read_bytes()


async def test_two_sessions_write_one_file(tmp_path: Path) -> None:
    async with traced(tmp_path) as trace:
        async with trace.lun() as one, trace.lun() as other:
            await one.read(0, 4096)
            await other.read(0, 4096)
        trace.check()
        assert sorted(set(trace.column("tcp.stream"))) == ["0", "1"]
        async with trace.lun() as again:
            await again.read(0, 4096)
        trace.check()  # a new section
        assert len(set(trace.column("tcp.stream"))) == 3


async def test_it_begins_anew_when_it_is_long(tmp_path: Path) -> None:
    async with traced(tmp_path) as trace:
        async with trace.lun(trace_size=2 * MEBI) as lun:
            for _ in range(8):
                await lun.write(0, b"l" * MEBI)
        older = tmp_path / "trace.pcapng.1"
        assert 0 < trace.file.stat().st_size <= 2 * MEBI
        assert MEBI < older.stat().st_size <= 2 * MEBI
        assert older.stat().st_mode & 0o777 == 0o600
        for file in (trace.file, older):
            assert tshark.column(file, "frame.number", port=trace.port)


async def test_what_a_killed_process_left_is_cut_off(tmp_path: Path) -> None:
    async with traced(tmp_path) as trace:
        async with trace.lun() as lun:
            await lun.read(0, 4096)
        whole = trace.file.read_bytes()
        trace.file.write_bytes(whole + whole[200:260])
        async with trace.lun() as lun:
            await lun.read(0, 4096)
        assert trace.file.read_bytes().startswith(whole + whole[:12])
        trace.check()


async def test_what_is_no_trace_is_left_alone(tmp_path: Path) -> None:
    async with traced(tmp_path) as trace:
        trace.file.write_text("something that somebody needs")
        with pytest.raises(ConfigurationError, match="holds something else"):
            async with trace.lun():
                pass
        assert trace.file.read_text() == "something that somebody needs"
    for file, why in (
        (tmp_path / "no" / "directory", "No such file"),
        (Path("/dev/full"), "not a regular file"),
    ):
        async with traced(tmp_path) as trace:
            other = Traced(trace.target, trace.address, file)
            with pytest.raises(ConfigurationError, match=why):
                async with other.lun():
                    pass


async def test_who_must_go_on_goes_on_without(tmp_path: Path, expect_logs: ExpectLogs) -> None:
    (tmp_path / "other").write_text("something else, and long enough")
    broken = Settings(trace=str(tmp_path / "other"))
    expect_logs("goes on without a trace")
    assert (await without_unwritable_trace(broken)).trace == ""
    fine = Settings(trace=str(tmp_path / "new"))
    assert await without_unwritable_trace(fine) == fine


async def test_a_full_disk_ends_the_trace_and_nothing_else(
    tmp_path: Path, expect_logs: ExpectLogs
) -> None:
    expect_logs("trace.pcapng ends: File too large")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with traced(tmp_path) as trace:
        try:
            async with trace.lun() as lun:
                resource.setrlimit(resource.RLIMIT_FSIZE, (MEBI, limits[1]))
                await lun.write(0, b"x" * MEBI)
                assert await lun.read(0, MEBI) == b"x" * MEBI
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)


async def test_what_is_left_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with traced(tmp_path) as trace:
        async with trace.lun() as lun:
            monkeypatch.setattr(tracefile, "MAX_WAITING_BYTES", -1)
            await lun.read(0, 4096)
            monkeypatch.setattr(tracefile, "MAX_WAITING_BYTES", 1 << 25)
            await lun.read(4096, 4096)
        comments = trace.column("frame.comment")
        assert any("are not recorded" in comment for comment in comments)
        assert trace.column("tcp.analysis.ack_lost_segment") or trace.column(
            "tcp.analysis.lost_segment"
        )


async def test_without_a_trace_the_socket_is_a_plain_one(tmp_path: Path) -> None:
    """What passes it is seen by nobody, so it costs nothing."""
    async with traced(tmp_path) as trace:
        async with trace.lun(trace="") as lun:
            pump = lun.session._pump
            assert pump is not None
            assert type(pump._sock) is not TracedSocket
        assert not trace.file.exists()
        async with trace.lun() as lun:
            pump = lun.session._pump
            assert pump is not None
            assert type(pump._sock) is TracedSocket


async def test_the_last_pdus_are_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pyscsi_init.session")
    async with traced(tmp_path) as trace, trace.lun(trace="") as lun:
        hold = trace.target.faults.hold()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lun.read, 0, 4096)
            await hold.wait()
            trace.target.faults.clear()
            (session,) = trace.target.sessions
            session.connection._put([bytes([0x3E]) + bytes(47)])
            await until(lambda: lun.session.statistics.recoveries == 1)
    (text,) = (
        record.getMessage()
        for record in caplog.records
        if "the connection ends" in record.getMessage()
    )
    assert "received: opcode 3eh" in text
    assert "sent, no answer: 28" in text


def test_a_file_that_is_only_looked_at_is_not_left_behind(tmp_path: Path) -> None:
    place = tmp_path / "new.pcapng"
    tracefile.check_trace_file(place)
    assert not place.exists()
    place.touch()
    tracefile.check_trace_file(place)
    assert place.exists()
