# SPDX-License-Identifier: Apache-2.0
"""Whatever an initiator sends, the server goes on serving the others.

An exception inside the server ends ``running()`` and with it the test, so it is enough to send
nonsense and to log in once more afterwards.
"""

from __future__ import annotations

import random

import anyio
import pytest

from pyscsi_init.login.text import encode_pairs
from pyscsi_init.pdu import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    NopOut,
    Pdu,
    ScsiCommand,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
    serialize,
)
from pyscsi_init.testing import RamDisk, Target, TargetChap, TargetServer
from tests.pyscsi_init.testing.raw_initiator import (
    TEST_UNIT_READY,
    connected,
    logged_in,
    read_10,
)

pytestmark = pytest.mark.anyio

IQN = "iqn.2024-01.example:disk"
CONNECTIONS = 150

SAMPLES: list[Pdu] = [
    ScsiCommand(cdb=read_10(0, 8), read=True, expected_data_transfer_length=4096, cmd_sn=100),
    ScsiCommand(cdb=b"\x2a" + bytes(9), write=True, final=False, cmd_sn=100, data=b"x" * 64),
    ScsiCommand(cdb=b"\x7f" + bytes(31), immediate=True),
    DataOut(final=True, initiator_task_tag=1, data=b"d" * 100),
    NopOut(immediate=True, initiator_task_tag=3, data=b"ping"),
    TextRequest(immediate=True, initiator_task_tag=4, data=encode_pairs([("SendTargets", "")])),
    TaskManagementRequest(immediate=True, function=5),
    LogoutRequest(immediate=True, reason=1, cid=9),
    SnackRequest(initiator_task_tag=5),
    LoginRequest(current_stage=1),
]

LOGIN_TEXTS = [
    "InitiatorName=iqn.2024-01.example:i",
    f"TargetName={IQN}",
    "SessionType=Discovery",
    "SessionType=Normal",
    "AuthMethod=CHAP,None",
    "AuthMethod=",
    "CHAP_A=5,x",
    "CHAP_A=5",
    "CHAP_I=300",
    "CHAP_N=u",
    "CHAP_R=0xzz",
    "CHAP_R=0b====",
    "MaxBurstLength=-1",
    "MaxBurstLength=99999999999999999999999",
    "HeaderDigest=,",
    "InitialR2T=maybe",
    "no separator",
    "=",
    "Schl\u00fcssel=\u00fc",
]


def spoil(pdu: Pdu, source: random.Random) -> bytes:
    """The PDU with some bytes changed; the lengths stay small enough to be sent."""
    whole = bytearray(b"".join(bytes(part) for part in serialize(pdu)))
    for _ in range(source.randrange(4)):
        position = source.choice([0, 1, *range(8, 48)])
        whole[position] = source.randrange(256)
    return bytes(whole)


@pytest.mark.parametrize("seed", range(4))
async def test_spoiled_pdus(seed: int) -> None:
    source = random.Random(seed)
    target = Target(IQN, luns={0: RamDisk(1 << 20)})
    async with TargetServer([target]).running() as portal:
        for _ in range(CONNECTIONS):
            async with logged_in(portal, IQN) as initiator:
                try:
                    for _ in range(source.randrange(1, 8)):
                        await initiator.stream.send(spoil(source.choice(SAMPLES), source))
                except anyio.BrokenResourceError:
                    continue  # the target had enough
        async with logged_in(portal, IQN) as initiator:
            assert (await initiator.execute(TEST_UNIT_READY)).status == 0
            assert (await initiator.execute(read_10(0, 1), read=512)).status == 0


@pytest.mark.parametrize("seed", range(4))
async def test_spoiled_logins(seed: int) -> None:
    source = random.Random(seed)
    target = Target(
        IQN, luns={0: RamDisk(1 << 20)}, chap=TargetChap(user="u", secret=b"0123456789abcdef")
    )
    async with TargetServer([target]).running() as portal:
        for _ in range(CONNECTIONS):
            async with connected(portal) as initiator:
                try:
                    for _ in range(source.randrange(1, 5)):
                        pairs = source.choices(LOGIN_TEXTS, k=source.randrange(6))
                        request = LoginRequest(
                            current_stage=source.choice((0, 0, 1, 1, 2, 3)),
                            transit=source.random() < 0.5,
                            next_stage=source.randrange(4),
                            data="\0".join([*pairs, ""]).encode(),
                        )
                        await initiator.stream.send(spoil(request, source))
                except anyio.BrokenResourceError:
                    continue
        assert target.sessions == []
        async with logged_in(portal, IQN, chap=("u", b"0123456789abcdef")) as initiator:
            assert (await initiator.execute(TEST_UNIT_READY)).status == 0
