# SPDX-License-Identifier: Apache-2.0
"""What counts as lost, so that its end may be forced."""

from __future__ import annotations

from dataclasses import replace

from fusefs.csi.condition import is_lost
from fusefs.volume.status import VolumeStatus

FAILED = VolumeStatus(name="v", state="failed")


def test_only_what_an_orderly_end_could_not_save_is_lost() -> None:
    assert is_lost(FAILED)
    assert not is_lost(replace(FAILED, savable=True))
    assert not is_lost(replace(FAILED, state="recovering"))
    # It lives, and has not answered in time: it may have all of its dirty pages to write.
    assert not is_lost(replace(FAILED, silent=True))
