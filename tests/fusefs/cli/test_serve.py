# SPDX-License-Identifier: Apache-2.0
"""serve: its socket, systemd's words, and that there is one of it. Volumes are not needed here."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fusefs.cli.listening import Listener, sole_server
from fusefs.cli.systemd import inherited_sockets, notify
from fusefs.errors import InvalidSpec
from fusefs.host.sockets import LONGEST_PATH
from fusefs.volume_errors import AlreadyServed
from tests.support.plugin import Plugin
from tests.support.source import ROOT

# -- the socket ---------------------------------------------------------------------------------


def listen(path: Path) -> Listener:
    return Listener("docker", str(path), {})


def test_only_root_may_connect_and_the_file_goes_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "plugin.sock"
    listener = listen(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listener.close()
    assert not path.exists()


def test_a_socket_that_a_dead_one_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "plugin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    listener = listen(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    listener.close()


def test_a_socket_on_which_somebody_listens_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plugin.sock"
    first = listen(path)
    with pytest.raises(AlreadyServed, match=f"{path}.*end that one"):
        listen(path)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    first.close()


def test_the_file_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "plugin.sock"
    first = listen(path)
    path.unlink()
    second = listen(path)
    first.close()
    assert path.exists()
    second.close()


def test_a_file_that_is_no_socket_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plugin.sock"
    path.write_text("precious")
    with pytest.raises(InvalidSpec, match="is no socket; remove it"):
        listen(path)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("path", ["relative.sock", f"/{'x' * LONGEST_PATH}"])
def test_a_path_that_cannot_be_a_socket_is_refused(path: str) -> None:
    with pytest.raises(InvalidSpec, match="107 bytes; name another"):
        listen(Path(path))


def test_one_server_a_run_directory(tmp_path: Path) -> None:
    with (
        sole_server(tmp_path / "run", "docker"),
        sole_server(tmp_path / "run", "csi"),
        pytest.raises(AlreadyServed, match=f"process {os.getpid()} serves docker"),
        sole_server(tmp_path / "run", "docker"),
    ):
        raise AssertionError
    with sole_server(tmp_path / "run", "docker"):
        pass


# -- systemd ------------------------------------------------------------------------------------

PRINT_SOCKETS = """\
import os
from fusefs.cli.systemd import inherited_sockets
found = inherited_sockets()
print({name: each.getsockname() for name, each in found.items()})
print(sorted(key for key in os.environ if key.startswith("LISTEN_")))
print([os.get_inheritable(each.fileno()) for each in found.values()])
"""


@pytest.fixture
def activate(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command as systemd does: sockets from descriptor 3 on, named by the environment."""
    sockets = []
    for name in ("one", "two"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / name))
        listener.listen()
        sockets.append(listener)
    started = []

    def start(
        *command: str, count: int = 2, names: str = "docker:csi", pid: str = "$$", **variables: str
    ) -> subprocess.Popen[str]:
        descriptors = [each.fileno() for each in sockets[:count]]
        moves = " ".join(f"{3 + n}<&{fd}" for n, fd in enumerate(descriptors))
        script = f'LISTEN_PID={pid} LISTEN_FDS={count} LISTEN_FDNAMES={names} exec "$@" {moves}'
        process = subprocess.Popen(
            ["/bin/bash", "-c", script, "-", *command],
            pass_fds=descriptors,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env={**os.environ, **variables},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()
    for listener in sockets:
        listener.close()


def test_sockets_of_systemd_are_taken_by_name(
    tmp_path: Path, activate: Callable[..., subprocess.Popen[str]]
) -> None:
    out, _ = activate(sys.executable, "-c", PRINT_SOCKETS).communicate(timeout=60)
    sockets, environment, inheritable = out.splitlines()
    assert sockets == str({"docker": f"{tmp_path}/one", "csi": f"{tmp_path}/two"})
    assert (environment, inheritable) == ("[]", "[False, False]")


def test_sockets_for_another_process_are_not_taken(
    activate: Callable[..., subprocess.Popen[str]],
) -> None:
    out, _ = activate(sys.executable, "-c", PRINT_SOCKETS, pid="1").communicate(timeout=60)
    assert out.splitlines()[:2] == ["{}", "[]"]


def test_a_socket_of_systemd_that_does_not_listen_is_refused() -> None:
    with (
        socket.socket(socket.AF_UNIX) as idle,
        pytest.raises(InvalidSpec, match="no Unix stream socket that listens"),
    ):
        Listener("docker", "/unused", {"docker": idle})


def test_without_systemd_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS"):
        monkeypatch.delenv(key, raising=False)
    notify("READY=1")
    assert inherited_sockets() == {}


@pytest.mark.root
def test_activated_it_tells_systemd_how_far_it_is(
    tmp_path: Path, activate: Callable[..., subprocess.Popen[str]]
) -> None:
    """On systemd's socket, which stays; READY=1 once it serves, STOPPING=1 when it is to end."""
    plugin = Plugin(tmp_path)
    plugin.socket = tmp_path / "one"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(tmp_path / "notify"))
        heard.settimeout(60)
        # A socket without a name of its own is called "unknown".
        environment = plugin.environment | {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        process = activate(*plugin.command(), count=1, names="unknown", **environment)
        with plugin.client() as client:  # it may ask before anybody takes the call
            assert client.call("Plugin.Activate") == {"Implements": ["VolumeDriver"]}
        assert heard.recv(100) == b"READY=1"
        process.send_signal(signal.SIGTERM)
        assert heard.recv(100) == b"STOPPING=1"
        assert process.wait(60) == 0
    assert plugin.socket.exists()


@pytest.mark.root
def test_a_second_one_is_refused_with_a_reason(tmp_path: Path) -> None:
    with Plugin(tmp_path) as first:
        for directory, why in (
            (first.run_dir, "serves docker"),
            (tmp_path / "x", str(first.socket)),
        ):
            done = subprocess.run(
                first.command(),
                capture_output=True,
                text=True,
                cwd=ROOT,
                env=first.environment | {"PYSCSI_INIT_RUN_DIR": str(directory)},
                timeout=60,
                check=False,
            )
            assert done.returncode == 10
            assert why in done.stderr
            assert done.stderr.count("\n") == 1
        with first.client() as client:
            client.call("Plugin.Activate")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ([], "Say what to serve: --docker"),
        (["--docker", "/run/x.sock", "--docker-host", "tcp://h:2375"], "is not the Unix socket"),
    ],
)
def test_what_cannot_be_served_is_a_usage_error(
    tmp_path: Path, options: list[str], why: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fusefs.cli", "serve", *options],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=Plugin(tmp_path).environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert why in done.stderr


@pytest.mark.root
def test_without_the_extra_it_says_which_one(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['uvicorn'] = None\n"
        "from fusefs.cli.app import run_command\n"
        "sys.exit(run_command(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "serve", "--docker", str(tmp_path / "plugin.sock")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=Plugin(tmp_path).environment,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "pip install 'pyscsi-init[docker]'" in done.stderr
