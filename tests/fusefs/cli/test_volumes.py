# SPDX-License-Identifier: Apache-2.0
"""attach, detach, mount, umount, status: on this host, against a real tgt, and back to nothing."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusefs.cli import exit_codes
from fusefs.spec import VolumeSpec
from fusefs.volume.catalog import Catalog, Definition
from tests.fusefs.cli.harness import IQN, MEBI, MUTUAL_SECRET, SECRET, USER, Cli
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.tgt, pytest.mark.root]

SIZE = 64 * MEBI


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[TgtServer]:
    """Blank LUNs 1 and 2, of each test its own."""
    with TgtServer() as server:
        server.new_target(IQN)
        server.add_lun(1, 1, tmp_path / "lun1", size_bytes=SIZE)
        server.add_lun(1, 2, tmp_path / "lun2", size_bytes=SIZE)
        yield server
        server.wait_sessions(0)


def test_attach_status_detach(disks: TgtServer, cli: Cli) -> None:
    done = cli("attach", disks.url(1, 1), "--name", "one")
    assert done.status == 0, done
    file = Path(done.out.strip())
    assert stat.S_ISREG(file.stat().st_mode)
    assert file.stat().st_size == SIZE
    with file.open("r+b") as opened:
        opened.write(b"through the file")

    (volume,) = cli("status", "--json").json
    needed = (
        "name url state file loop mountpoint fuse_channel worker_pid size_bytes block_size "
        "read_only session io recoveries"
    )
    assert set(needed.split()) <= set(volume)
    assert {"target", "portal", "isid", "tsih", "keys"} <= set(volume["session"])
    assert (volume["name"], volume["state"], volume["file"]) == ("one", "attached", str(file))
    assert (volume["size_bytes"], volume["block_size"]) == (SIZE, 512)
    assert volume["session"]["target"] == IQN
    assert "one   attached" in cli("status").out
    assert "Q3_LOGGED_IN" in cli("status", "one").out
    assert cli("doctor").status == 0

    with file.open("rb"):
        cli("detach", "one").failed(exit_codes.BUSY, f"pid {os.getpid()}")
    assert cli("detach", "one").status == 0
    assert disks.sessions() == []
    assert disks.luns[1, 1].path.read_bytes()[:16] == b"through the file"
    cli("detach", "one").failed(exit_codes.NO_VOLUME)
    cli("status", "one").failed(exit_codes.NO_VOLUME)
    assert cli("status", "--json").json == []
    assert cli.volumes() == []


def test_names_and_luns_in_use(disks: TgtServer, cli: Cli) -> None:
    assert cli("attach", disks.url(1, 1), "--name", "one", "--json").json["name"] == "one"
    cli("attach", disks.url(1, 2), "--name", "one").failed(exit_codes.IN_USE, "'one'")
    cli("attach", disks.url(1, 1), "--name", "two").failed(exit_codes.IN_USE, "'one'")
    cli("attach", disks.url(1, 1), "--name", "one").failed(exit_codes.IN_USE)
    # A command on an attached LUN has a session of its own and ends nobody else's.
    assert cli("info", disks.url(1, 1)).status == 0
    assert cli("status", "--json").json[0]["recoveries"] == 0
    assert cli("detach", "one").status == 0


def test_mount_and_umount(disks: TgtServer, cli: Cli, tmp_path: Path) -> None:
    directory = tmp_path / "mnt"
    directory.mkdir()
    url = disks.url(1, 1)
    cli("mount", url, directory).failed(exit_codes.CONTENT, "--format-if-blank")
    done = cli(
        "mount", url, directory, "--name", "m", "--format-if-blank", "--fstype", "ext4",
        "-o", "noatime,nodiratime", "--on-disconnect", "fail-after=20",
    )  # fmt: skip
    assert done.status == 0, done
    assert str(directory) in done.out
    (directory / "file").write_text("content")
    cli("mount", disks.url(1, 2), directory).failed(exit_codes.USAGE, "mounted on it")
    user = subprocess.Popen(["sleep", "100"], cwd=directory)
    try:
        cli("umount", directory).failed(exit_codes.BUSY, f"pid {user.pid}")
    finally:
        user.kill()
        user.wait()
    cli("detach", "m").failed(exit_codes.BUSY, "umount")
    assert cli("umount", directory, "--json").json["clean"] is True
    assert disks.sessions() == []

    cli("mount", url, directory, "--fstype", "xfs").failed(exit_codes.CONTENT, "ext4", "xfs")
    found = cli("mount", url, directory, "-o", "ro", "--json").json
    assert (found["read_only"], found["fstype"]) == (True, "ext4")
    assert (directory / "file").read_text() == "content"
    with pytest.raises(OSError, match="Read-only"):
        (directory / "new").touch()
    assert cli("umount", found["name"]).status == 0
    cli("umount", directory).failed(exit_codes.NO_VOLUME)


def test_resize(disks: TgtServer, cli: Cli, tmp_path: Path) -> None:
    cli("resize", "m").failed(exit_codes.NO_VOLUME, "'m'")
    directory = tmp_path / "mnt"
    directory.mkdir()
    disks.grow(1, 1, 320 * MEBI)
    url = disks.url(1, 1)
    made = cli("mount", url, directory, "--name", "m", "--format-if-blank", "--fstype", "xfs")
    assert made.status == 0, made
    same = cli("resize", "m")
    assert (same.status, "m: nothing has grown: /dev/loop" in same.out) == (0, True), same
    disks.grow(1, 1, 640 * MEBI)
    done = cli("resize", "m")
    assert done.status == 0, done
    assert " 320 MiB -> 640 MiB, xfs on " in done.out
    disks.grow(1, 1, 960 * MEBI)
    report = cli("resize", "m", "--json").json
    assert (report["grown"], report["old_size_bytes"], report["size_bytes"]) == (
        True, 640 * MEBI, 960 * MEBI,
    )  # fmt: skip
    assert report["filesystem_bytes"] > report["old_filesystem_bytes"] > 500 * MEBI
    disks.grow(1, 1, 640 * MEBI)
    cli("resize", "m").failed(exit_codes.IO, "it shrank while it was in use", "give it back")
    error = cli("resize", "m", "--json").json["error"]
    assert (error["class"], error["exit_status"]) == ("CapacityShrunk", exit_codes.IO)
    disks.grow(1, 1, 960 * MEBI)
    assert cli("resize", "m").status == 0
    assert cli("status", "--json").json[0]["size_bytes"] == 960 * MEBI
    assert cli("umount", "m").status == 0


def test_what_a_volume_was_asked_for_is_shown(disks: TgtServer, cli: Cli) -> None:
    options = ("--on-disconnect", "fail-after=20", "--durability", "fua")
    shown = cli("attach", disks.url(1, 1), "--name", "one", *options, "--json").json
    assert (shown["on_disconnect"], shown["durability"]) == ("fail-after=20", "fua")
    assert cli("attach", disks.url(1, 2), "--name", "two").status == 0
    found = {v["name"]: (v["on_disconnect"], v["durability"]) for v in cli("status", "--json").json}
    assert found == {"one": ("fail-after=20", "fua"), "two": ("wait", "target-cache")}
    text = cli("status", "one").out
    assert "fail-after=20" in text
    assert "fua" in text
    for name in found:
        assert cli("detach", name).status == 0


def test_options_and_journals(disks: TgtServer, cli: Cli, tmp_path: Path) -> None:
    directory = tmp_path / "mnt"
    directory.mkdir()
    url, lun = disks.url(1, 1), disks.luns[1, 1].path
    made = cli("mount", url, directory, "--name", "m", "--format-if-blank")
    assert made.status == 0, made
    (directory / "file").write_text("content")
    descriptor = os.open(directory, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    dirty = lun.read_bytes()
    assert cli("umount", "m").status == 0
    cli("mount", url, directory, "-o", "noatime,nonsense").failed(exit_codes.USAGE, "'nonsense'")
    clean = cli("mount", url, directory, "--name", "m", "--read-only")
    assert (clean.status, clean.err) == (0, ""), clean
    assert cli("umount", "m").status == 0
    lun.write_bytes(dirty)
    done = cli("mount", url, directory, "--name", "m", "--read-only")
    assert done.status == 0
    assert "replays no journal" in done.err, done
    assert cli("umount", "m").status == 0


def test_force_ends_a_volume_whose_target_is_gone(
    disks: TgtServer, cli: Cli, tmp_path: Path
) -> None:
    directory = tmp_path / "mnt"
    directory.mkdir()
    assert cli("mount", disks.url(1, 1), directory, "--format-if-blank").status == 0
    disks.kill()
    done = cli("umount", directory, "--force", "--json")
    disks.start()
    assert done.status == 0, done
    assert done.json["forced"] is True
    assert cli.volumes() == []


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--read-only", "--format-if-blank"), exit_codes.USAGE),
        (("--name", "a\nb"), exit_codes.USAGE),
        (("--fuse", "nonsense"), exit_codes.USAGE),
        (("--durability", "nonsense"), exit_codes.USAGE),
        (("--on-disconnect", "fail-after"), exit_codes.USAGE),
    ],
    ids=str,
)
def test_a_mount_that_cannot_work(
    disks: TgtServer, cli: Cli, tmp_path: Path, arguments: tuple[str, ...], status: int
) -> None:
    cli("mount", disks.url(1, 1), tmp_path, *arguments).failed(status)


def test_places_that_cannot_be_mounted_on(disks: TgtServer, cli: Cli, tmp_path: Path) -> None:
    cli("mount", disks.url(1, 1), tmp_path / "missing").failed(exit_codes.USAGE, "mkdir")
    cli("mount", disks.url(1, 1), tmp_path).failed(exit_codes.USAGE, "not empty")
    assert disks.sessions() == []


def test_a_login_that_fails_leaves_nothing(
    tgt: TgtServer, cli: Cli, secret_file: Callable[[str], Path]
) -> None:
    cli("attach", tgt.url(1, 0)).failed(exit_codes.NO_LUN, "no disk")
    cli("attach", tgt.url(1, 9)).failed(exit_codes.NO_LUN)
    cli("attach", f"iscsi://{tgt.portal}/{IQN}x/1").failed(exit_codes.LOGIN_REFUSED)
    cli("attach", f"iscsi://127.0.0.1:1/{IQN}/1").failed(exit_codes.UNREACHABLE)
    cli("attach", tgt.url(2, 1)).failed(exit_codes.AUTHENTICATION)
    file = secret_file("wrong-secret-1234")
    cli("attach", tgt.url(2, 1), "--chap-user", USER, "--chap-secret-file", file).failed(
        exit_codes.AUTHENTICATION
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"iscsi://127.0.0.1:{server.getsockname()[1]}/{IQN}/1"
        begin = time.monotonic()
        cli("attach", url, "--set", "login_timeout=0.5").failed(exit_codes.TIMEOUT)
        assert time.monotonic() - begin < 30
    assert cli.volumes() == []


def shown_to_others() -> Iterator[tuple[int, bytes, bytes]]:
    """Number, arguments and environment of each process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                yield (
                    int(entry.name),
                    (entry / "cmdline").read_bytes(),
                    (entry / "environ").read_bytes(),
                )
            except OSError:
                continue


def test_secrets_are_in_no_argument_and_in_no_file(
    tgt: TgtServer, cli: Cli, tmp_path: Path, secret_file: Callable[[str], Path]
) -> None:
    secrets = (SECRET.encode(), MUTUAL_SECRET.encode())
    seen: set[bytes] = set()
    process = cli.start(
        "attach", tgt.url(2, 1, user=USER), "--name", "secret", "-vv",
        "--chap-mutual-secret-file", secret_file(MUTUAL_SECRET),
        PYSCSI_INIT_CHAP_SECRET=SECRET,
    )  # fmt: skip
    while process.poll() is None:
        for _, arguments, _ in shown_to_others():
            seen.add(arguments)
    out, err = process.communicate()
    assert process.returncode == 0, err
    (volume,) = cli("status", "--json").json
    worker = volume["worker_pid"]
    seen.update(arguments for _, arguments, _ in shown_to_others())
    assert any(b"fusefs.process.zygote" in arguments for arguments in seen)
    for secret in secrets:
        assert not [arguments for arguments in seen if secret in arguments]
        assert secret.decode() not in out + err + str(volume)
        assert secret not in Path(f"/proc/{worker}/environ").read_bytes()
        for path in cli.run_dir.rglob("*"):
            if path.is_file() and path.name != "lun":
                assert secret not in path.read_bytes(), path
    assert cli("detach", "secret").status == 0


@pytest.mark.parametrize("seconds", [0.3, 0.5, 0.65, 0.8])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_a_signal_at_any_step_of_a_mount(
    disks: TgtServer, cli: Cli, tmp_path: Path, number: signal.Signals, seconds: float
) -> None:
    """Either it was mounted, or nothing of it is left: the guards of the test run see the rest."""
    directory = tmp_path / "mnt"
    directory.mkdir()
    process = cli.start("mount", disks.url(1, 1), directory, "--name", "m", "--format-if-blank")
    time.sleep(seconds)
    done = cli.stop(process, number)
    if done.status == 0:
        assert cli("umount", "m").status == 0
    else:
        assert done.status == 128 + number, done
        assert done.err.count("\n") == 1, done
        assert cli.volumes() == []
    disks.wait_sessions(0)


def test_another_disk_is_refused_until_the_first_is_forgotten(
    disks: TgtServer, cli: Cli, tmp_path: Path
) -> None:
    directory = tmp_path / "mnt"
    directory.mkdir()
    mount = ("mount", disks.url(1, 1), directory, "--name", "m", "--format-if-blank")
    assert cli(*mount).status == 0
    cli("forget", "m").failed(exit_codes.IN_USE, "it is attached")
    assert cli("umount", "m").status == 0
    with (tmp_path / "lun1").open("r+b") as disk:
        disk.truncate(0)
        disk.truncate(SIZE)
    cli(*mount).failed(exit_codes.IO, "holds nothing that is known", "`pyscsi-init forget m`")
    assert not any((tmp_path / "lun1").read_bytes())
    assert cli("forget", "m", "--json").json == {"name": "m", "forgotten": True}
    cli("forget", "m").failed(exit_codes.NO_VOLUME)
    assert cli(*mount, "--fsck", "force").status == 0
    assert cli("umount", "m").status == 0


def test_a_volume_that_is_defined_is_shown(cli: Cli, tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "state" / "volumes")
    (tmp_path / "state" / "volumes").mkdir(parents=True)
    spec = VolumeSpec(name="data", url=f"iscsi://192.0.2.7/{IQN}/1", read_only=True)
    catalog.save(Definition(spec=spec, created_at="2026-01-01T00:00:00Z", owner="test"))
    (found,) = cli("status", "--json").json
    assert (found["name"], found["state"], found["read_only"]) == ("data", "defined", True)
    assert "defined" in cli("status", "data").out
    catalog.path("bad").write_text("{")
    assert "run the version that wrote it" in cli("status", "bad").out
    assert cli("forget", "bad", "--definition").status == 0
    assert cli("forget", "data").status == 0
    assert [each["name"] for each in cli("status", "--json").json] == ["data"]
    assert cli("forget", "data", "--definition").status == 0
    assert cli("status", "--json").json == []
