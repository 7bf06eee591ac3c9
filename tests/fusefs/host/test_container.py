# SPDX-License-Identifier: Apache-2.0
"""The small container: own root, own processes, the volume inside, nothing afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fusefs.host import Bind, LinuxHost
from fusefs.host.container import Container, make_rootfs

pytestmark = pytest.mark.root


def _run(
    host: LinuxHost, tmp_path: Path, script: str, binds: list[Bind] | None = None
) -> tuple[int, str, str]:
    container = host.start_container(
        ["sh", "-c", script], rootfs=str(tmp_path / "root"), binds=binds or [], hostname="inside"
    )
    stdout, stderr = container.process.communicate(timeout=60)
    status = container.stop()
    assert not (tmp_path / "root").exists()
    return status, stdout.decode(), stderr.decode()


def test_it_sees_its_own_world(host: LinuxHost, tmp_path: Path) -> None:
    script = "hostname; echo $$; ls /; wc -l < /proc/self/mountinfo; echo x > /dev/null && echo dev"
    status, stdout, stderr = _run(host, tmp_path, script)
    assert (status, stderr) == (0, "")
    lines = stdout.splitlines()
    assert lines[:2] == ["inside", "1"]
    assert {"bin", "proc", "dev"} <= set(lines)
    assert "lost+found" not in lines
    assert int(lines[-2]) == 7  # root, five devices, proc: nothing of the host
    assert lines[-1] == "dev"


def test_the_exit_status_is_passed_on(host: LinuxHost, tmp_path: Path) -> None:
    assert _run(host, tmp_path, "exit 42")[0] == 42
    assert _run(host, tmp_path, "kill -TERM $$; sleep 0; exit 7")[0] in (7, 143)


def test_binds_are_seen_and_read_only_ones_are(host: LinuxHost, tmp_path: Path) -> None:
    data, fixed = tmp_path / "data", tmp_path / "fixed"
    data.mkdir()
    fixed.write_text("from the host")
    script = "cat /etc/fixed; echo written > /data/file; echo no > /etc/fixed"
    binds = [Bind(str(data), "/data"), Bind(str(fixed), "/etc/fixed", read_only=True)]
    status, stdout, stderr = _run(host, tmp_path, script, binds)
    assert stdout == "from the host"
    assert "Read-only" in stderr
    assert status != 0
    assert (data / "file").read_text() == "written\n"
    assert fixed.read_text() == "from the host"


def test_an_unmount_on_the_host_reaches_it(host: LinuxHost, tmp_path: Path) -> None:
    """Else a volume that is detached would stay pinned by every container beside it."""
    held = tmp_path / "held"
    held.mkdir()
    # Propagation comes from a shared mount only.
    from fusefs.host import syscalls

    host.bind(str(held), str(held))
    syscalls.mount("none", str(held), None, syscalls.MS_SHARED)
    sub = held / "sub"
    sub.mkdir()
    container = host.start_container(
        ["sh", "-c", "echo ready; exec sleep 1000"],
        rootfs=str(tmp_path / "root"),
        binds=[Bind(str(held), "/held")],
    )
    try:
        assert container.process.stdout is not None
        assert container.process.stdout.readline() == b"ready\n"
        host.bind(str(sub), str(sub))
        assert _count(container, "/held/sub") == 1
        host.umount(str(sub))
        assert _count(container, "/held/sub") == 0
    finally:
        container.stop()
        host.umount(str(held))


def test_stop_ends_it_and_everything_in_it(host: LinuxHost, tmp_path: Path) -> None:
    container = host.start_container(
        ["sh", "-c", "sleep 1000 & echo ready; wait"], rootfs=str(tmp_path / "root")
    )
    assert container.process.stdout is not None
    assert container.process.stdout.readline() == b"ready\n"
    inner = _inner(container)
    assert container.stop() == -9
    assert container.stop() == -9
    _gone(inner)


def test_it_ends_with_the_program_that_started_it_and_not_with_a_thread(tmp_path: Path) -> None:
    script = f"""
import threading, time
from fusefs.host import LinuxHost
found = []
def start():
    found.append(LinuxHost().start_container(
        ["sh", "-c", "echo ready; exec sleep 1000"], rootfs={str(tmp_path / "root")!r}))
thread = threading.Thread(target=start)
thread.start()
thread.join()
found[0].process.stdout.readline()
print(found[0].pid, found[0].process.poll(), flush=True)
import os; os._exit(0)
"""
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    pid, state = done.stdout.split()
    assert state == b"None"
    _gone(int(pid))


def test_what_cannot_be_made_is_said(host: LinuxHost, tmp_path: Path) -> None:
    container = host.start_container(
        ["true"], rootfs=str(tmp_path / "root"), binds=[Bind(str(tmp_path / "none"), "/x")]
    )
    _, stderr = container.process.communicate(timeout=60)
    assert container.stop() == 125
    assert b"container: " in stderr


def test_a_root_of_ones_own_is_kept(host: LinuxHost, tmp_path: Path) -> None:
    root = tmp_path / "root"
    make_rootfs(str(root))
    container = host.start_container(["true"], rootfs=str(root))
    assert container.wait(60) == 0
    container.stop()
    assert (root / "bin/busybox").exists()


def _inner(container: Container) -> int:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        children = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
        if children:
            return int(children[0])
        time.sleep(0.01)
    raise AssertionError("no inner process")


def _count(container: Container, path: str) -> int:
    from fusefs.host import mountinfo

    return sum(one.mountpoint == path for one in mountinfo.read(_inner(container)))


def _gone(pid: int) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.01)
    os.kill(pid, 9)
    raise AssertionError(f"process {pid} is still there, {threading.active_count()} threads")
