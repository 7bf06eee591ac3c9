# SPDX-License-Identifier: Apache-2.0
"""An initiator that a test writes by hand, PDU by PDU, in front of a scripted target's peer."""

from __future__ import annotations

from typing import Any

from pyscsi_init.login.text import encode_pairs
from pyscsi_init.pdu import LoginRequest, Pdu
from pyscsi_init.testing.scripted import Invariants, Peer, RawPdu, Recorder

OFFERS = {
    "HeaderDigest": "CRC32C,None",
    "DataDigest": "CRC32C,None",
    "InitialR2T": "No",
    "ImmediateData": "Yes",
    "MaxRecvDataSegmentLength": "8192",
    "MaxBurstLength": "262144",
    "FirstBurstLength": "65536",
    "ErrorRecoveryLevel": "0",
}
NAMES = {"InitiatorName": "iqn.2026-11.example:a", "TargetName": "iqn.2026-11.example:b"}


class Conversation:
    """Says what it is told to, and knows what was found wrong with it."""

    def __init__(self, **keys: str) -> None:
        recorder = Recorder(lambda: 0.0)
        self.peer = Peer(recorder, Invariants(recorder), stat_sn=500, keys=keys)
        self.cmd_sn = 1000
        self.exp_stat_sn = 0

    def say(self, *pdus: Pdu | RawPdu | bytes) -> None:
        """The initiator sends these as they are."""
        agreed = self.peer.parameters
        for pdu in pdus:
            if isinstance(pdu, bytes):
                data = pdu
            else:
                raw_pdu = pdu if isinstance(pdu, RawPdu) else raw_of(pdu)
                data = raw_pdu.serialize(agreed.header_digest, agreed.data_digest)
            self.peer.receive(data)

    def numbered(self, kind: type[Pdu], **fields: Any) -> Any:
        """A request with the numbers that are due."""
        immediate = fields.get("immediate", False)
        if hasattr(kind(), "cmd_sn") and "cmd_sn" not in fields:
            fields["cmd_sn"] = self.cmd_sn
            self.cmd_sn += not immediate
        fields.setdefault("exp_stat_sn", self.exp_stat_sn)
        return kind(**fields)

    def ask(self, kind: type[Pdu], **fields: Any) -> Any:
        """Send such a request."""
        pdu = self.numbered(kind, **fields)
        self.say(pdu)
        return pdu

    def answer(self, *items: Any) -> None:
        """The target sends."""
        self.peer.encode(*items)
        number = self.peer.invariants.of(0).status.exp_stat_sn
        self.exp_stat_sn = 0 if number is None else number

    def log_in(self, discovery: bool = False, **offers: str) -> Conversation:
        """Both sides, honestly."""
        names = {"InitiatorName": NAMES["InitiatorName"], "SessionType": "Discovery"}
        pairs = [*(names if discovery else NAMES).items(), *(OFFERS | offers).items()]
        request = self.ask(
            LoginRequest,
            transit=True,
            current_stage=1,
            next_stage=3,
            cmd_sn=self.cmd_sn,
            data=encode_pairs(pairs),
        )
        self.answer(self.peer.login_answer(request))
        return self

    @property
    def complaints(self) -> list[str]:
        """What was found wrong, first lines only."""
        return [str(each).split("\n")[0] for each in self.peer.invariants.violations]


def raw_of(pdu: Pdu) -> RawPdu:
    """The PDU as the codec builds it."""
    encoded = pdu.encode()
    return RawPdu(bytearray(encoded[:48]), encoded[48:], bytes(pdu.data))
