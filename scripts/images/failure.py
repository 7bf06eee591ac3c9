# SPDX-License-Identifier: Apache-2.0
"""The one error of the builds."""

from __future__ import annotations


class BuildFailed(Exception):
    """What cannot be made, what was said about it, and what to do."""

    def __init__(self, what: str, reason: str, remedy: str) -> None:
        last = " | ".join(line.strip() for line in reason.strip().splitlines()[-4:])
        super().__init__(f"{what}{': ' if last else ''}{last}; {remedy}")
