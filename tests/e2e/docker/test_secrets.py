# SPDX-License-Identifier: Apache-2.0
"""CHAP secrets are where they have to be, and nowhere else.

Two secrets that exist nowhere in the world but here, ours and the target's, and every place looked
at in which one could have been left: plain, in hexadecimal and in base64, at whatever offset.
"""

from __future__ import annotations

import base64
import os
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.docker.everyday import Everyday
from tests.e2e.docker.storage import Storage
from tests.support.dockerd import DockerEngine, DockerError
from tests.support.images import WORKER

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(300)]

USER, PEER = "alice", "storage"


def forms(secret: str) -> list[bytes]:
    """The secret as it may be found; base64 has three forms, by what stands before it."""
    raw = secret.encode()
    found = [raw, raw.hex().encode(), raw.hex().upper().encode(), repr(raw)[2:-1].encode()]
    for before in range(3):
        text = base64.b64encode(b"\0" * before + raw)
        # What depends on the neighbours is left out.
        found.append(text[4 if before else 0 : -4])
    return found


def holds(data: bytes, secret: str) -> bool:
    return any(form in data for form in forms(secret))


@pytest.mark.parametrize(
    "encode", [bytes, lambda raw: raw.hex().encode(), lambda raw: base64.b64encode(b"xy" + raw)]
)
def test_the_search_finds_what_it_is_for(encode: object) -> None:
    secret = secrets.token_urlsafe(16)
    assert callable(encode)
    assert holds(b"before" + encode(secret.encode() + b" and after"), secret)
    assert not holds(b"before and after", secret)


def places(
    engine: DockerEngine, target: int, secret_files: set[Path]
) -> Iterator[tuple[str, bytes]]:
    """Every place to look at, but for the secret files themselves and the target's own process."""
    for base, _, names in os.walk(engine.directory):
        if base.startswith(str(engine.directory / "docker")):
            continue  # images and containers: what Docker stores of volumes comes below
        for name in names:
            path = Path(base, name)
            if path.is_file() and path not in secret_files and not path.name.endswith(".disk"):
                yield str(path), path.read_bytes()
    for path in (engine.directory / "docker" / "volumes").rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
    for path in (engine.directory / "docker" / "containers").rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes()
    for pid in [entry for entry in os.listdir("/proc") if entry.isdigit()]:
        if int(pid) in (target, os.getpid()):
            continue
        for what in ("cmdline", "environ"):
            try:
                yield f"/proc/{pid}/{what}", Path(f"/proc/{pid}/{what}").read_bytes()
            except OSError:
                continue


def test_secrets_are_found_nowhere(engine: DockerEngine, storage: Storage, tmp_path: Path) -> None:
    ours, theirs = secrets.token_urlsafe(12), secrets.token_urlsafe(12)
    docker = Everyday(engine, storage)
    engine.stop_plugin()
    engine.start_plugin("-vv")
    options = docker.options("secret")
    tgt = storage.tgt
    tgt.require_chap(1, USER, ours)
    tgt.require_chap(1, PEER, theirs, outgoing=True)
    files = {tmp_path / "ours", tmp_path / "theirs"}
    for name, secret in (("ours", ours), ("theirs", theirs)):
        (tmp_path / name).write_text(secret + "\n")
        (tmp_path / name).chmod(0o600)
    trace = tmp_path / "volume.pcapng"
    chap: dict[str, object] = {
        "chap_user": USER,
        "chap_secret_file": tmp_path / "ours",
        "chap_peer_user": PEER,
        "chap_peer_secret_file": tmp_path / "theirs",
        "set.trace": trace,
    }
    engine.create_volume("secret", **options, **chap)
    told: dict[str, bytes] = {}

    def refused(*arguments: str) -> None:
        with pytest.raises(DockerError) as caught:
            engine.docker(*arguments)
        # The command line itself, which the client was given, is told by the error's beginning.
        told[" ".join(arguments[:2])] = str(caught.value).partition(": ended with")[2].encode()

    refused("volume", "create", "-d", "pyscsi-init", "-o", f"chap_secret={ours}", "wrong")
    docker.start("works", "-v", "secret:/data")
    docker.engine.docker("exec", "works", "sh", "-c", "echo written > /data/x; sync")
    # A wrong secret: what is told of it, and what it leaves.
    tgt.close_connection(docker.sessions("secret")[0])
    docker.engine.docker("exec", "works", "sh", "-c", "echo again > /data/y; sync")
    # The worker dies: its successor has the secrets from the holder.
    (worker,) = [volume["worker_pid"] for volume in engine.volumes()]
    os.kill(worker, signal.SIGKILL)
    docker.engine.docker("exec", "works", "sh", "-c", "echo more > /data/z; sync")
    told["docker inspect"] = engine.docker("inspect", "works").encode()
    told["docker volume inspect"] = engine.docker("volume", "inspect", "secret").encode()
    told["docker volume ls"] = engine.docker("volume", "ls").encode()
    told["docker events"] = engine.docker("events", "--since", "1h", "--until", "0s").encode()
    told["pyscsi-init status"] = engine.pyscsi_init("status", "--json").encode()
    with docker.client() as client:
        told["Get"] = repr(client.call("VolumeDriver.Get", Name="secret")).encode()
    assert trace.stat().st_size > 1000
    assert b"CHAP_N" in trace.read_bytes()
    looked = [*told.items(), *places(engine, tgt.pid, files)]
    for secret in (ours, theirs):
        found = [where for where, data in looked if holds(data, secret)]
        assert not found, found
    names = {where.rpartition("/")[2] for where, _ in looked}
    assert {"state.json", "plugin.log", "log", "volume.pcapng", "secret.json"} <= names
    docker.remove("works")
    docker.wait_sessions("secret", 0)
    # With a wrong secret nothing of the right or the wrong one is told either.
    wrong = secrets.token_urlsafe(12)
    (tmp_path / "ours").write_text(wrong)
    refused("run", "--rm", "--network", "none", "-v", "secret:/data", WORKER, "/bin/true")
    assert b"uthenticat" in told["run --rm"]
    for secret in (ours, theirs, wrong):
        looked = [*told.items(), *places(engine, tgt.pid, files)]
        found = [where for where, data in looked if holds(data, secret)]
        assert not found, found
    engine.check_nothing_left()
