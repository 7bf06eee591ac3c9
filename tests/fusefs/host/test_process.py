# SPDX-License-Identifier: Apache-2.0
"""Protection of a process: what is allowed takes effect, what is not is named."""

from __future__ import annotations

import errno
import json
import subprocess
import sys

import pytest

from fusefs.host import process

SCRIPT = """
import json, sys
from fusefs.host import process
refusals = process.protect(oom_score_adj=int(sys.argv[1]))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "refusals": [[r.what, r.reason, r.errno] for r in refusals],
    "locked_kb": int(status["VmLck"].split()[0]),
    "oom": int(open("/proc/self/oom_score_adj").read()),
    "flusher": process.io_flusher_allowed(),
}))
"""


def _protect(score: int) -> dict[str, object]:
    # In a process of its own: locked memory and a lowered score cannot be given back.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(score)], check=True, capture_output=True, text=True
    )
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.mark.root
def test_each_protection_is_in_force_or_refused() -> None:
    answer = _protect(process.DATA_PATH_OOM_SCORE_ADJ)
    refused = {what: (reason, number) for what, reason, number in answer["refusals"]}  # type: ignore[attr-defined]
    if process.has_capability(process.CAP_SYS_RESOURCE):
        assert answer["oom"] == -999
        assert "PR_SET_IO_FLUSHER" not in refused
    else:
        assert refused["PR_SET_IO_FLUSHER"][1] == errno.EPERM
        assert "CAP_SYS_RESOURCE is missing" in refused["PR_SET_IO_FLUSHER"][0]
        assert refused["oom_score_adj -999"][1] == errno.EACCES
        assert answer["oom"] != -999
    assert answer["flusher"] == ("PR_SET_IO_FLUSHER" not in refused)
    locked = answer["locked_kb"]
    assert isinstance(locked, int)
    assert (locked > 0) == ("mlockall" not in refused)


def test_raising_the_score_is_always_allowed() -> None:
    assert _protect(500)["oom"] == 500


def test_nothing_asked_nothing_refused() -> None:
    assert process.protect(io_flusher=False, lock_memory=False, oom_score_adj=None) == []


def test_a_refusal_reads_as_a_sentence() -> None:
    refusal = process._refusal("mlockall", PermissionError(errno.EPERM, "x"), "CAP_IPC_LOCK")
    assert str(refusal) == "mlockall: Operation not permitted: CAP_IPC_LOCK is missing"
