# SPDX-License-Identifier: Apache-2.0
"""What the application waits for."""

from __future__ import annotations

from typing import Any

from pyscsi_init.pdu import DataOut
from pyscsi_init.session import ManagementTask, ScsiTask, TextTask


class Issued:
    """Something the application waits for, and how often it was told the end."""

    task: ScsiTask
    request: ManagementTask
    text: TextTask

    def __init__(self, buffer: bytearray) -> None:
        self.buffer = buffer
        self.times = 0
        self.error: Exception | None = None

    def completed(self, task: Any) -> None:
        self.times += 1
        self.error = task.error

    @property
    def done(self) -> bool:
        assert self.times < 2, "completed twice"
        return self.times == 1


def data_of(pdus: list[Any]) -> bytes:
    """The payload of Data-Out PDUs in a row."""
    assert all(isinstance(pdu, DataOut) for pdu in pdus)
    return b"".join(pdu.data for pdu in pdus)
