# SPDX-License-Identifier: Apache-2.0
"""What the fake host remembers of marks: a device has one as a whole, or none."""
# ruff: noqa: ARG002 - the signatures are the interface's

from __future__ import annotations

from fusefs.errors import NotBlank
from fusefs.host.fake_state import FakeState
from fusefs.host.interface import QUICK_S
from fusefs.host.records import FormatMark


class FakeFormatting(FakeState):
    """The part of ``FakeHost`` that has to do with mkfs that is cut off."""

    def read_format_mark(self, device: str, *, timeout_s: float = QUICK_S) -> FormatMark | None:
        with self._step("read_format_mark", device=device):
            return self._content_of(device).mark

    def write_format_mark(
        self, device: str, mark: FormatMark, *, timeout_s: float = QUICK_S
    ) -> None:
        with self._step("write_format_mark", device=device, mark=mark):
            self._content_of(device).mark = mark

    def remove_format_mark(
        self, device: str, mark: FormatMark, *, timeout_s: float = QUICK_S
    ) -> None:
        with self._step("remove_format_mark", device=device):
            self._content_of(device).mark = None

    def wipe_unfinished(
        self, device: str, mark: FormatMark, *, timeout_s: float = 2 * QUICK_S
    ) -> None:
        with self._step("wipe_unfinished", device=device, mark=mark):
            content = self._content_of(device)
            if content.mark != mark:
                raise NotBlank(device, "another mark than a moment ago")
            content.signatures, content.first_nonzero = (), None
