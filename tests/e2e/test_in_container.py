# SPDX-License-Identifier: Apache-2.0
"""The examples of a session inside a container, behind the bridge and the NAT of a real engine.

The target lies on a storage network that knows no way back to the containers' addresses, so nothing
here would come to it untranslated (tests/support/bridge.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import processes
from tests.support.bridge import HOST, BridgedDocker, DockerError, storage_target
from tests.support.mount_namespace import freed
from tests.support.python_image import IMAGE, VOLUME_PROGRAMS, import_image
from tests.support.source import ROOT
from tests.support.tgt import TgtServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(900)]

IQN = "iqn.2026-11.example:in-container"
NAME = "iqn.2026-11.example:client"
MEBI = 1 << 20
NOBODY = 65534
EXAMPLES = f"--volume={ROOT / 'examples' / 'in-container'}:/examples:ro"
UNPRIVILEGED = [
    *("--user", f"{NOBODY}:{NOBODY}", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
    *("--read-only", EXAMPLES),
]
MOUNTING = [
    *("--init", "--cap-add=SYS_ADMIN", "--device=/dev/fuse", "--device=/dev/loop-control"),
    *("--device-cgroup-rule=b 7:* rwm", "--volume=/dev:/dev", EXAMPLES),
    # With a name of its own it is the same node again after its death, and keeps others out.
    "--env=VOLUME_OPTIONS=--format-if-blank --initiator-name iqn.2026-11.example:app",
]
DATA = "/srv/data"


@pytest.fixture(scope="module")
def engine() -> Iterator[BridgedDocker]:
    with BridgedDocker() as engine:
        import_image(engine, programs=VOLUME_PROGRAMS)
        yield engine


@dataclass(frozen=True, slots=True)
class Lun:
    tgt: TgtServer
    url: str
    disk: Path


@pytest.fixture
def lun(engine: BridgedDocker, tmp_path: Path) -> Iterator[Lun]:
    """A blank LUN of 128 MiB on the storage network."""
    with storage_target(engine) as tgt:
        tid = tgt.new_target(IQN)
        disk = tmp_path / "disk"
        tgt.add_lun(tid, 1, disk, size_bytes=128 * MEBI)
        yield Lun(tgt, tgt.url(tid, 1), disk)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A directory that the user inside may write to."""
    directory = tmp_path / "files"
    directory.mkdir()
    os.chown(directory, NOBODY, NOBODY)
    return directory


def run(engine: BridgedDocker, *arguments: str) -> str:
    return engine.docker("run", "--rm", *arguments)


def shell(engine: BridgedDocker, files: Path, script: str) -> str:
    """Run a script in an unprivileged container, with ``files`` at /files."""
    volume = f"--volume={files}:/files"
    return run(engine, *UNPRIVILEGED, volume, IMAGE, "sh", "-euc", script)


def digest(path: Path, size: int | None = None) -> str:
    return hashlib.sha256(path.read_bytes()[:size]).hexdigest()


def peers_of_the_target(engine: BridgedDocker) -> set[tuple[str, int]]:
    """Who has a connection to the target, as the storage network sees it."""
    lines = engine.storage.run("ss", "-Htn", "state", "established").splitlines()
    found = (line.split()[3].rpartition(":") for line in lines)
    return {(address, int(port)) for address, _, port in found}


# -- without any privilege ------------------------------------------------------------------------


def test_an_image_to_a_lun_and_back(engine: BridgedDocker, lun: Lun, files: Path) -> None:
    image = files / "disk.img"
    image.write_bytes(random.randbytes(24 * MEBI) + bytes(8 * MEBI))
    names = f"--initiator-name {NAME}"
    shell(engine, files, f"pyscsi-init copy {names} /files/disk.img {lun.url}")
    assert digest(lun.disk, 32 * MEBI) == digest(image)
    shell(engine, files, f"pyscsi-init copy {names} {lun.url} /files/back.img")
    assert digest(files / "back.img") == digest(lun.disk)


def test_a_file_tree_with_a_secret_that_nobody_else_sees(
    engine: BridgedDocker, lun: Lun, files: Path
) -> None:
    secret = "twelve-or-more-characters"
    lun.tgt.require_chap(1, "alice", secret)
    tree = files / "tree"
    (tree / "deeper").mkdir(parents=True)
    for number in range(20):
        (tree / "deeper" / f"{number}").write_bytes(random.randbytes(number * 50_000))
    file = files / "secret"
    file.write_text(secret)
    file.chmod(0o400)
    for path in (file, tree):
        os.chown(path, NOBODY, NOBODY)
    url = lun.url.replace("iscsi://", "iscsi://alice@")
    backup = f"{url} --initiator-name {NAME} --chap-secret-file /run/secrets/chap"
    script = f"""
        tar -C /files/tree -c . | python3 /examples/backup.py put {backup}
        mkdir /files/back
        python3 /examples/backup.py get {backup} | tar -C /files/back -x
    """
    mount = f"--mount=type=bind,source={file},target=/run/secrets/chap,readonly"
    arguments = (*UNPRIVILEGED, mount, f"--volume={files}:/files", IMAGE, "sh", "-euc", script)
    engine.docker("run", "--name", "tree", *arguments)
    told = engine.docker("inspect", "tree") + engine.docker("logs", "tree") + engine.log
    engine.docker("rm", "tree")
    assert secret not in told
    assert str(file) in told
    names = sorted(path.relative_to(tree) for path in tree.rglob("*") if path.is_file())
    assert len(names) == 20
    for name in names:
        assert (files / "back" / name).read_bytes() == (tree / name).read_bytes()
    with pytest.raises(DockerError, match="CHAP"):
        shell(engine, files, f"python3 /examples/backup.py get {lun.url} --initiator-name {NAME}")


def test_a_database_dump_and_one_that_was_cut_off(
    engine: BridgedDocker, lun: Lun, files: Path
) -> None:
    dump = "import sqlite3; print('\\n'.join(sqlite3.connect('/files/a.db').iterdump()))"
    load = "import sqlite3, sys; sqlite3.connect('/files/b.db').executescript(sys.stdin.read())"
    make = (
        "import sqlite3; c = sqlite3.connect('/files/a.db'); c.execute('create table t (n, s)'); "
        "c.executemany('insert into t values (?, ?)', ((n, str(n) * 9) for n in range(20000))); "
        "c.commit()"
    )
    show = "import sqlite3; print(sqlite3.connect('/files/b.db').execute('select count(*), sum(n) from t').fetchone())"  # noqa: E501
    backup = f"{lun.url} --initiator-name {NAME}"
    told = shell(
        engine,
        files,
        f"""
        python3 -c "{make}"
        python3 -c "{dump}" | python3 /examples/backup.py put {backup}
        python3 /examples/backup.py get {backup} | python3 -c "{load}"
        python3 -c "{show}"
        """,
    )
    assert "(20000, 199990000)" in told

    endless = f"yes | python3 /examples/backup.py put {backup}"
    arguments = (*UNPRIVILEGED, IMAGE, "sh", "-c", endless)
    engine.docker("run", "--detach", "--rm", "--name", "cut", *arguments)
    written = (b"y\n" * 512, 4 * MEBI)
    wait_until(lambda: _at(lun.disk, written[1]) == written[0], 240, "some MiB of the dump")
    engine.docker("kill", "cut")
    with pytest.raises(DockerError, match="no backup on this LUN, or it was cut off"):
        shell(engine, files, f"python3 /examples/backup.py get {backup}")


def _at(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(1024)


def test_what_it_may_not_do(engine: BridgedDocker, lun: Lun) -> None:
    """Mounting is refused with the remedy, and nothing has been done to the LUN."""
    mount = ("pyscsi-init", "mount", lun.url, "/tmp", "--name", "v", "--format-if-blank")
    with pytest.raises(DockerError, match="CAP_SYS_ADMIN"):
        run(engine, IMAGE, *mount)
    with pytest.raises(DockerError, match="initiator name"):
        run(engine, *UNPRIVILEGED, IMAGE, "pyscsi-init", "info", lun.url)
    lun.tgt.wait_sessions(0, timeout=60)
    assert not any(lun.disk.read_bytes())


WRITER = """
import sys, time
from pyscsi_init import blocking
with blocking.open_lun(sys.argv[1], initiator_name=sys.argv[2]) as lun:
    for number in range(400):
        data = number.to_bytes(4, "big") * 1024
        lun.write(number * 4096, data)
        assert lun.read(number * 4096, 4096) == data
        print(number, flush=True)
        time.sleep(0.01)
print("done", flush=True)
"""


def test_the_firewall_resets_the_connection(engine: BridgedDocker, lun: Lun) -> None:
    """As when its rules are loaded anew: the session comes back through it, with all of its data.

    That the target sees the host's address and no other is what makes this a test of NAT.
    """
    arguments = (*UNPRIVILEGED, IMAGE, "python3", "-c", WRITER, lun.url, NAME)
    engine.docker("run", "--detach", "--name", "writer", *arguments)
    try:
        wait_until(lambda: "\n20\n" in engine.docker("logs", "writer"), 240, "some writes")
        before = peers_of_the_target(engine)
        assert {address for address, _ in before} == {HOST}
        rule = ("FORWARD", "-p", "tcp", "--dport", str(lun.tgt.port), "-j", "REJECT")
        engine.host.run("iptables", "-I", *rule, "--reject-with", "tcp-reset")
        packets = 0

        def was_reset() -> bool:
            nonlocal packets
            listed = engine.host.run("iptables", "-L", "FORWARD", "-nvx").splitlines()
            packets = next(int(line.split()[0]) for line in listed if "REJECT" in line)
            return packets > 1  # the connection, and an attempt at another one

        wait_until(was_reset, 30, "packets that were rejected")
        engine.host.run("iptables", "-D", *rule, "--reject-with", "tcp-reset")
        wait_until(lambda: "done" in engine.docker("logs", "writer"), 240, "the end of the writes")
        assert engine.docker("wait", "writer").strip() == "0"
    finally:
        engine.docker("rm", "--force", "writer")
    wanted = b"".join(number.to_bytes(4, "big") * 1024 for number in range(400))
    assert lun.disk.read_bytes()[: len(wanted)] == wanted


# -- with /dev/fuse and loop devices --------------------------------------------------------------


@contextlib.contextmanager
def mounting(engine: BridgedDocker, url: str, script: str) -> Iterator[str]:
    """A container that has mounted the LUN and runs a script on it; removed at the end."""
    name = "mounting"
    command = ("/examples/mount-and-run", url, DATA, "sh", "-euc", script)
    engine.docker("run", "--detach", "--name", name, *MOUNTING, IMAGE, *command)
    try:
        yield name
    finally:
        engine.docker("rm", "--force", name)


def loop_device_in(pid: int) -> str:
    """What is mounted on DATA in the mount namespace of a process."""
    table = Path(f"/proc/{pid}/mountinfo").read_text()
    found = re.search(rf" {DATA} .* - ext4 (/dev/loop\d+) ", table)
    return found[1] if found else ""


def is_attached(device: str) -> bool:
    """Whether a loop device has the file of a volume that was mounted in a container."""
    try:
        backing = Path("/sys/block", Path(device).name, "loop/backing_file").read_text()
    except OSError:
        return False
    # The name is as long as it can be seen from here: a namespace that is gone leaves its end.
    return backing.strip() in ("/run/pyscsi-init/volumes/data/fuse/lun", "/lun")


def test_a_container_mounts_for_itself(engine: BridgedDocker, lun: Lun) -> None:
    """To its end; ended by SIGTERM; killed: what was synced is there, and nothing else is left."""
    command = ("/examples/mount-and-run", lun.url, DATA, "sh", "-c", f"echo 1 >{DATA}/one; exit 7")
    with pytest.raises(DockerError, match="ended with 7"):
        run(engine, *MOUNTING, IMAGE, *command)
    lun.tgt.wait_sessions(0, timeout=60)

    wait = f"cat {DATA}/one; echo 2 >{DATA}/two; sync; echo ready; exec sleep 86400"
    with mounting(engine, lun.url, wait) as name:
        wait_until(lambda: "ready" in engine.docker("logs", name), 240, "what it says")
        assert engine.docker("exec", name, "ls", DATA).split() == ["one", "two"]
        engine.docker("stop", "--time", "240", name)
        assert "1\n" in engine.docker("logs", name)
    lun.tgt.wait_sessions(0, timeout=60)

    busy = f"cat {DATA}/two; sync; echo ready; while :; do echo 3 >>{DATA}/three; done"
    with mounting(engine, lun.url, busy) as name:
        wait_until(lambda: "ready" in engine.docker("logs", name), 240, "what it says")
        first = engine.pid_of(name)
        device = loop_device_in(first)
        assert is_attached(device)
        state = ("inspect", "-f", "{{.State.Running}}", name)
        with freed(first, "/run/pyscsi-init/volumes"):
            processes.end(first, how=signal.SIGKILL, timeout=240)
            wait_until(lambda: not is_attached(device), 240, f"{device} is free")
            wait_until(lambda: not lun.tgt.sessions(), 240, "its session is over")
            wait_until(lambda: engine.docker(*state).strip() == "false", 240, "its end")

    told = run(
        engine, *MOUNTING, IMAGE, "/examples/mount-and-run", lun.url, DATA, "cat", f"{DATA}/two"
    )
    assert told.startswith("2\n")
