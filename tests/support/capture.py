# SPDX-License-Identifier: Apache-2.0
"""What somebody else's dissector makes of our wire: dumpcap takes it down, tshark judges it."""

from __future__ import annotations

import re
import select
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from . import processes
from .netns import NetworkNamespace
from .requirements import require, require_root

FAULTS = ("_ws.malformed", "iscsi.keyvalue.invalid", "iscsi.opcode.invalid")
"""What no PDU of either side may be. Other expert infos come with clean sessions too."""

CONTENTS = ("iscsi.opcode", "iscsi.keyvalue")
STUMBLE = "[Malformed Packet: SCSI]"

EVERY_OPCODE = frozenset(range(0x08)) | {0x10} | frozenset(range(0x20, 0x28)) | {0x31, 0x32, 0x3F}
"""RFC 7143 11.2.1.2. The dissector passes over most others as if they were not iSCSI."""

KEY_VALUE = re.compile(r"[A-Za-z][A-Za-z0-9.+@_#-]{0,62}=.*")
"""RFC 7143 6.1; the dissector lets a pair without a key pass."""

BUFFER_MIB = 256
"""The kernel's, so that a slow disk loses no packet."""

QUIET_SECONDS = 0.6
"""The kernel hands over what it has every quarter of a second."""


@dataclass(slots=True)
class Verdict:
    """What the dissector saw."""

    opcodes: Counter[int] = field(default_factory=Counter)
    """Opcode -> PDUs."""
    faults: list[str] = field(default_factory=list)
    """One text for each frame with a fault."""
    passed_over: int = 0
    """Frames of connections with a DataDigest, after their login: the dissector does not know the
    length of such PDUs, and takes what follows in the same segment for anything."""


class Capture:
    """``with Capture(path, interface="lo", port=3260) as capture:`` takes down a TCP port.

    ``namespace`` is where the interface is; the host's own if there is none.
    """

    def __init__(
        self,
        path: Path,
        *,
        interface: str,
        port: int,
        namespace: NetworkNamespace | None = None,
    ) -> None:
        require_root()
        self._dumpcap, self._tshark = require("dumpcap", "tshark"), require("tshark")
        self.path = path
        self.port = port
        self._interface = interface
        self._namespace = namespace
        self._process: subprocess.Popen[bytes] | None = None
        self._said = b""

    def __enter__(self) -> Capture:
        command = [self._dumpcap, "-i", self._interface, "-f", f"tcp port {self.port}"]
        command += ["-B", str(BUFFER_MIB), "-w", str(self.path)]
        self._process = subprocess.Popen(
            self._namespace.command(*command) if self._namespace else command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=processes.environment(),
            start_new_session=True,
        )
        try:
            self._hear(b"File: ", 20)
        except BaseException:
            self._end(signal.SIGKILL)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._end(signal.SIGKILL)

    def _hear(self, text: bytes, seconds: float) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        deadline = time.monotonic() + seconds
        while text not in self._said:
            left = max(0.0, deadline - time.monotonic())
            pipe = self._process.stderr
            data = pipe.read1(4096) if select.select([pipe], [], [], left)[0] else b""  # type: ignore[attr-defined]
            if not data:
                raise AssertionError(f"dumpcap does not start: {self._said.decode()}")
            self._said += data

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(how)
        self._said += process.communicate(timeout=30)[1]

    def stop(self) -> None:
        """No more; every packet that came must be in the file."""
        # What the kernel still holds back would be lost, and nobody tells whether it does.
        size = -1
        while size != (size := self.path.stat().st_size):
            time.sleep(QUIET_SECONDS)
        self._end(signal.SIGINT)
        counts = re.search(rb"received/dropped on interface '.*': (\d+)/(\d+) ", self._said)
        assert counts is not None, self._said.decode()
        assert int(counts[2]) == 0, f"dumpcap lost packets: {self._said.decode()}"
        assert int(counts[1]) > 0, f"no packet on {self._interface}, port {self.port}"

    def judge(self, seconds: float = 100) -> Verdict:
        """Have every PDU dissected; the capture must have been stopped."""
        command = [self._tshark, "-n", "-r", str(self.path), "-Y", "iscsi"]
        command += ["-d", f"tcp.port=={self.port},iscsi"]
        # Otherwise it passes over exactly what it is asked for here.
        command += ["-o", "iscsi.bogus_pdu_filter:FALSE"]
        # The two ends of loopback are taken down in the order in which CPUs came by.
        command += ["-o", "tcp.reassemble_out_of_order:TRUE"]
        command += ["-T", "fields", "-E", "aggregator=|"]
        for name in ("frame.number", "tcp.stream", "tcp.srcport", *CONTENTS, *FAULTS):
            command += ["-e", name]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=processes.environment(),
            timeout=seconds,
            check=True,
        )
        return self._verdict(done.stdout)

    def _verdict(self, text: str) -> Verdict:
        verdict = Verdict()
        digests: set[str] = set()
        for line in text.splitlines():
            number, stream, source, opcodes, pairs, *faults = line.split("\t")
            if stream in digests and not pairs:
                verdict.passed_over += 1
                continue
            if int(source) == self.port and "DataDigest=CRC32C" in pairs.split("|"):
                digests.add(stream)
            verdict.opcodes.update(int(each, 0) for each in opcodes.split("|") if each)
            # The SCSI dissector stumbles over VPD pages of honest targets, and only there.
            if any(faults) and not (int(source) == self.port and STUMBLE in faults[0]):
                verdict.faults.append(f"frame {number}: {' '.join(faults)}")
            verdict.faults += [
                f"frame {number}: {pair!r} is no key=value"
                for pair in pairs.split("|")
                if pair and not KEY_VALUE.fullmatch(pair)
            ]
        wild = sorted(set(verdict.opcodes) - EVERY_OPCODE)
        verdict.faults += [f"{verdict.opcodes[each]} PDUs with opcode {each:#04x}" for each in wild]
        return verdict
