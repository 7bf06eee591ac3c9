# SPDX-License-Identifier: Apache-2.0
"""What protects a process of the data path from the memory it serves.

Under memory pressure the kernel writes dirty pages of our filesystem to our loop device, which
asks our FUSE server, which must then not wait for memory itself. PR_SET_IO_FLUSHER tells the
kernel so, locked pages are never paged out, and oom_score_adj keeps the OOM killer away. Each
needs a capability that a container may lack; none is a reason not to run. So what was refused
is returned, with the reason, for `doctor` and `status` to say.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from pathlib import Path

from fusefs.host import syscalls
from fusefs.host.records import Refusal

CAP_IPC_LOCK = 14
CAP_SYS_ADMIN = 21
CAP_SYS_RESOURCE = 24

DATA_PATH_OOM_SCORE_ADJ = -999
"""One above "never": a worker that leaks without bound must still be killable."""

_OOM_SCORE_ADJ = Path("/proc/self/oom_score_adj")


def effective_capabilities() -> int:
    """The effective capabilities of this process, as the kernel's bit set."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


def has_capability(number: int) -> bool:
    """Whether this process has the capability of that number."""
    return bool(effective_capabilities() >> number & 1)


def io_flusher_allowed() -> bool:
    """Whether PR_SET_IO_FLUSHER would succeed; asking changes nothing."""
    try:
        syscalls.prctl(syscalls.PR_GET_IO_FLUSHER)
    except OSError:
        return False
    return True


def memory_lock_allowed() -> bool:
    """Whether mlockall may lock all we will ever need."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return has_capability(CAP_IPC_LOCK) or soft == resource.RLIM_INFINITY


def oom_score_adj_allowed() -> bool:
    """Whether the score may be lowered below what it is."""
    return has_capability(CAP_SYS_RESOURCE)


def protect(
    *,
    io_flusher: bool = True,
    lock_memory: bool = True,
    oom_score_adj: int | None = DATA_PATH_OOM_SCORE_ADJ,
) -> list[Refusal]:
    """Protect this process; see ``Host.protect_process``."""
    refusals: list[Refusal] = []
    if io_flusher:
        try:
            syscalls.prctl(syscalls.PR_SET_IO_FLUSHER, 1)
        except OSError as fault:
            refusals.append(_refusal("PR_SET_IO_FLUSHER", fault, "CAP_SYS_RESOURCE", "Linux 5.6"))
    if lock_memory:
        refusals.extend(_lock_memory())
    if oom_score_adj is not None:
        try:
            _OOM_SCORE_ADJ.write_text(str(oom_score_adj))
        except OSError as fault:
            refusals.append(_refusal(f"oom_score_adj {oom_score_adj}", fault, "CAP_SYS_RESOURCE"))
    return refusals


def spare(pid: int) -> None:
    """Keep the OOM killer away from another process of ours, where that is allowed."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/oom_score_adj").write_text(str(DATA_PATH_OOM_SCORE_ADJ))


def _lock_memory() -> list[Refusal]:
    if not memory_lock_allowed():
        # With a finite limit mlockall(MCL_FUTURE) may succeed now and make a later allocation fail.
        soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        reason = f"RLIMIT_MEMLOCK is {soft} bytes and CAP_IPC_LOCK is missing"
        return [Refusal("mlockall", reason, errno.EPERM)]
    everything = syscalls.MCL_CURRENT | syscalls.MCL_FUTURE
    try:
        # ONFAULT: pages are locked when they are first used. Without it every thread's stack of
        # 8 MiB would be filled at once.
        syscalls.mlockall(everything | syscalls.MCL_ONFAULT)
    except OSError as fault:
        return [_refusal("mlockall", fault, "CAP_IPC_LOCK")]
    return []


def _refusal(what: str, fault: OSError, capability: str, since: str = "") -> Refusal:
    number = fault.errno or 0
    reason = os.strerror(number)
    if number in (errno.EPERM, errno.EACCES):
        reason = f"{reason}: {capability} is missing"
    elif number == errno.EINVAL and since:
        reason = f"{reason}: needs {since}"
    return Refusal(what, reason, number)
