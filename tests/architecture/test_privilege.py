# SPDX-License-Identifier: Apache-2.0
"""What needs privilege lives in fusefs/host, behind one interface with a fake beside it.

So the rest of the tree can be read without thinking of root, and tested without it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.support.source import PACKAGES, called_name, calls, imports, name_of, python_files

HOST = "fusefs/host/"

PROGRAMS = re.compile(
    r"^(/\S*/)?(mount|umount|losetup|fusermount3?|blkid|wipefs|blockdev|modprobe|insmod|nsenter|"
    r"unshare|chroot|partprobe|(mkfs|fsck)(\.\w+)?|mke2fs|e2fsck|resize2fs|xfs_\w+|btrfs|fstrim)$"
)
STARTERS = {
    "run", "Popen", "call", "check_call", "check_output", "run_process", "open_process",
    "create_subprocess_exec", "execv", "execve", "execvp", "execvpe", "posix_spawn", "posix_spawnp",
}  # fmt: skip
PRIVILEGED_CALLS = {
    "os.chroot", "os.mknod", "os.setns", "os.unshare", "os.pivot_root", "os.mount", "os.umount",
}  # fmt: skip


MAY_LOAD_C = {
    "pyscsi_init/testing/disk.py": "fallocate punches holes into a file of one's own",
    "pyscsi_init/transport/network.py": "setns: sockets in a network that is named",
    "fusefs/fuse/ring.py": "io_uring needs no privilege, and answers leave through it",
    "fusefs/process/orphans.py": "anybody may become the parent of his own orphans",
}
"""Other places for ctypes: what needs no privilege, or is the library's, which knows no host."""


def outside() -> Iterator[Path]:
    """Files of the two packages that are not in fusefs/host."""
    return (path for path in python_files(*PACKAGES) if not name_of(path).startswith(HOST))


def problem_with(call: ast.Call) -> str:
    name = called_name(call)
    if name in PRIVILEGED_CALLS:
        return name
    if name.split(".")[-1] == "ioctl":
        used = {
            each.attr if isinstance(each, ast.Attribute) else each.id
            for argument in call.args
            for each in ast.walk(argument)
            if isinstance(each, ast.Attribute | ast.Name)
        }
        loop = sorted(each for each in used if each.startswith(("LOOP_", "BLK")))
        return f"ioctl {loop[0]}" if loop else ""
    if name.split(".")[-1] in STARTERS and call.args:
        first = call.args[0]
        if isinstance(first, ast.List | ast.Tuple) and first.elts:
            first = first.elts[0]
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            program = first.value.split(" ")[0]
            return f"{name} of {program}" if PROGRAMS.match(program) else ""
    return ""


def test_only_host_loads_the_c_library() -> None:
    found = [
        f"{name_of(path)}:{line} imports {module}"
        for path in outside()
        if name_of(path) not in MAY_LOAD_C
        for line, module in imports(path)
        if module.split(".")[0] in ("ctypes", "cffi")
    ]
    assert not found, "\n".join(found)


def test_only_host_calls_what_needs_privilege() -> None:
    found = [
        f"{name_of(path)}:{call.lineno} {why}"
        for path in outside()
        for call in calls(path)
        if (why := problem_with(call))
    ]
    assert not found, "\n".join(found)


def test_the_law_itself() -> None:
    def verdict(source: str) -> str:
        call = ast.parse(source, mode="eval").body
        assert isinstance(call, ast.Call)
        return problem_with(call)

    assert verdict('subprocess.run(["mount", "-t", "tmpfs"])')
    assert verdict('anyio.run_process(["/usr/sbin/mkfs.ext4", path])')
    assert verdict("fcntl.ioctl(descriptor, loop.LOOP_CONFIGURE, config)")
    assert verdict("os.setns(descriptor)")
    assert not verdict('subprocess.run(["tgtd", "-f"])')
    assert not verdict("fcntl.ioctl(descriptor, FUSE_DEV_IOC_CLONE, number)")
    assert not verdict("manager.mount(name)")
