# SPDX-License-Identifier: Apache-2.0
"""What Wireshark's dissectors say about a capture file."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.support import requirements


def fields(file: Path, *names: str, only: str = "", port: int = 3260) -> list[dict[str, list[str]]]:
    """The named fields of each packet that ``only`` (a display filter) lets pass."""
    requirements.require("tshark")
    command = [
        "tshark", "-n", "-r", str(file), "-T", "fields", "-E", "separator=/t",
        "-E", "aggregator=|", "-E", "occurrence=a", "-d", f"tcp.port=={port},iscsi",
        "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE",
    ]  # fmt: skip
    for name in names:
        command += ["-e", name]
    if only:
        command += ["-Y", only]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [
        {
            name: [part for part in value.split("|") if part]
            for name, value in zip(names, line.split("\t"), strict=True)
        }
        for line in done.stdout.splitlines()
    ]


def column(file: Path, name: str, *, only: str = "", port: int = 3260) -> list[str]:
    """All values of one field, in order."""
    return [each for row in fields(file, name, only=only, port=port) for each in row[name]]


def complaints(file: Path, *, port: int = 3260) -> list[dict[str, list[str]]]:
    """Packets that a dissector calls malformed, bad, lost or out of order."""
    return fields(
        file,
        "frame.number",
        "_ws.expert.message",
        port=port,
        only="_ws.malformed || _ws.expert.severity >= 0x600000 || tcp.analysis.lost_segment"
        " || tcp.analysis.out_of_order || tcp.analysis.retransmission"
        " || tcp.analysis.ack_lost_segment || tcp.checksum.status == 0 || ip.checksum.status == 0",
    )
