# SPDX-License-Identifier: Apache-2.0
"""The judge of our wire finds what it is asked for: a clean login passes, broken PDUs do not."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from pyscsi_init.pdu import LoginRequest, Pdu, serialize
from tests.support.capture import Capture, Verdict

pytestmark = pytest.mark.root


def login(data: bytes) -> bytes:
    request: Pdu = LoginRequest(
        transit=True,
        next_stage=1,
        isid=bytes.fromhex("800000000001"),
        initiator_task_tag=1,
        data=data,
    )
    return b"".join(map(bytes, serialize(request, False, False)))


def judged(path: Path, *sent: bytes) -> Verdict:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with Capture(path, interface="lo", port=port) as capture:
            with socket.create_connection(("127.0.0.1", port)) as here:
                there, _ = listener.accept()
                for data in sent:
                    here.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    here.sendall(data)
                here.shutdown(socket.SHUT_WR)
                while there.recv(65536):
                    pass
                there.close()
            capture.stop()
            return capture.judge()


def test_a_clean_login(tmp_path: Path) -> None:
    verdict = judged(tmp_path / "pcap", login(b"InitiatorName=iqn.2026-11.example:a\0"))
    assert verdict.opcodes == {0x03: 1}
    assert verdict.faults == []


@pytest.mark.parametrize("text", [b"=Discovery\0", b"Session Type=Discovery\0"])
def test_faults_are_found(tmp_path: Path, text: bytes) -> None:
    verdict = judged(tmp_path / "pcap", login(b"SessionType=Normal\0"), login(text))
    assert verdict.opcodes == {0x03: 2}
    assert len(verdict.faults) == 1
