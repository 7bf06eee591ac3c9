# SPDX-License-Identifier: Apache-2.0
"""A Docker Engine of a test's own, with our plugin beside it, both to be killed and started again.

::

    with DockerEngine(directory) as engine:
        engine.docker("volume", "create", "-d", PLUGIN, "-o", f"portal={tgt.portal}", ...)

Everything lies in ``directory``: data root, volumes, state, logs, and the /run that the engine and
the plugin see in their private mount namespace (tests/support/mount_namespace.py). It has no bridge
and touches no firewall unless it is given a network namespace to do that in.
"""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import processes
from .closing import Closing
from .kernel_tables import loop_devices_over, of_no_mount
from .mount_namespace import MountNamespace
from .netns import NetworkNamespace
from .requirements import SBIN, require
from .source import ROOT
from .waiting import wait_until

PLUGIN = "pyscsi-init"
PLUGIN_SOCKET = f"/run/docker/plugins/{PLUGIN}.sock"
HOST_URL = "unix:///run/docker.sock"
START_S = STOP_S = 60.0
COMMAND_S = 240.0
"""Ten containers that write leave a busy machine little time for commands."""
SETTLE_S = 30.0
"""A holder that nobody wants any more sees that within a few seconds, on a busy machine later."""

OURS = ("fusefs.cli serve", "fusefs.process")
"""In the arguments of the plugin, and of the holder, the zygote and the workers."""


class DockerError(Exception):
    """docker, dockerd or the plugin said no."""


class DockerEngine(Closing):
    """``with DockerEngine(tmp_path) as engine:`` starts dockerd and the plugin."""

    def __init__(
        self,
        directory: Path,
        *,
        live_restore: bool = False,
        network: NetworkNamespace | None = None,
        plugin: bool = True,
        hold_socket: bool = False,
    ) -> None:
        """``network``: dockerd may make bridges and firewall rules in there, and the plugin looks
        for its targets in there. ``plugin=False``: the test starts one when it likes.
        ``hold_socket``: the plugin is given its socket, as systemd does it, so that dockerd's calls
        wait while there is no plugin."""
        self._client, self._daemon = require("docker"), require("dockerd")
        self.directory = directory
        self.live_restore = live_restore
        self.namespace = MountNamespace(run=directory / "run", network=network)
        self._network = network
        self._with_plugin = plugin
        self._listener = socket.socket(socket.AF_UNIX) if hold_socket else None
        self._dockerd: subprocess.Popen[bytes] | None = None
        self._plugin: subprocess.Popen[bytes] | None = None
        self._connections: set[int] = set()
        self._mounts_of_the_engines: set[str] = set()

    def begin(self) -> None:
        """Start both; they answer on return."""
        self.namespace.begin()
        (self.directory / "run/docker/plugins").mkdir(parents=True)
        if self._listener is not None:
            self._listener.bind(self._through_root(PLUGIN_SOCKET))
            self._listener.listen(64)
        if self._with_plugin:
            self.start_plugin()
        self.start_dockerd()
        (self.directory / "client").mkdir()
        (self.directory / "client/config.json").write_text("{}")  # podman wants it too
        # What dockerd mounts for itself, and keeps; and what podman does.
        self._mounts_of_the_engines = {mounted.mountpoint for mounted in self.namespace.mounts()}
        self._mounts_of_the_engines.add(str(self.directory / "podman/root/overlay"))
        self._mounts_of_the_engines.add("/run/dockerd/netns/default")

    # -- commands -------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """What every process inside is given."""
        base = {k: v for k, v in processes.environment().items() if not k.startswith("DOCKER_")}
        return {
            **base,
            "PATH": f"{base.get('PATH', '')}:{SBIN}",
            "DOCKER_HOST": HOST_URL,
            "DOCKER_CONFIG": str(self.directory / "client"),
            "TMPDIR": str(self.directory),
            "PYSCSI_INIT_RUN_DIR": str(self.directory / "volumes"),
            "PYSCSI_INIT_STATE_DIR": str(self.directory / "state"),
            "PYTHONPATH": str(ROOT),
            "PYTHONFAULTHANDLER": "1",
        }

    def run(
        self,
        *command: str,
        check: bool = True,
        timeout: float = COMMAND_S,
        data: bytes | None = None,
        env: dict[str, str] | None = None,
    ) -> str:
        """Run a command inside and return its standard output (with ``check=False``, everything
        that it printed).

        Raises:
            DockerError: it ended with an error, or not in time.
        """
        name = " ".join(command[:8])
        try:
            done = subprocess.run(
                self.namespace.command(*command),
                stdin=subprocess.DEVNULL if data is None else None,
                input=data,
                capture_output=True,
                timeout=timeout,
                env={**self.environment, **(env or {})},
                cwd=self.directory,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise DockerError(f"{name}: not over in {timeout:g} s\n{self.logs()}") from late
        finally:
            self.note_connections()
        out, err = (text.decode(errors="replace") for text in (done.stdout, done.stderr))
        if done.returncode and check:
            raise DockerError(f"{name}: ended with {done.returncode}: {out}{err}")
        return out if check else out + err

    def docker(self, *arguments: str, **options: Any) -> str:
        """Run ``docker`` and return its standard output; options as of :meth:`run`.

        Raises:
            DockerError: it ended with an error, or not in time.
        """
        return self.run(self._client, *arguments, **options)

    def start(
        self, *command: str, log: Path | None = None, pass_fds: Sequence[int] = ()
    ) -> subprocess.Popen[bytes]:
        """Start a command inside and return its process; it is the caller's to end."""
        with (log or self.directory / "started.log").open("ab") as out:
            return subprocess.Popen(
                self.namespace.command(*command),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environment,
                cwd=self.directory,
                pass_fds=pass_fds,
                start_new_session=True,
            )

    def pyscsi_init(self, *arguments: str, **options: Any) -> str:
        """Run our command line inside, on the plugin's volumes."""
        return self.run(sys.executable, "-m", "fusefs.cli", *arguments, **options)

    def volumes(self) -> list[dict[str, Any]]:
        """What ``pyscsi-init status`` says of the volumes that are attached."""
        found = json.loads(self.pyscsi_init("status", "--json"))
        assert isinstance(found, list)
        return found

    def import_image(self, archive: Path, name: str, changes: Sequence[str] = ()) -> str:
        """Make an image of a tar archive; ``changes`` are lines of a Dockerfile."""
        options = [text for change in changes for text in ("--change", change)]
        self.docker("import", *options, str(archive), name)
        return name

    def create_volume(self, name: str, driver: str = PLUGIN, **options: object) -> str:
        """``docker volume create``."""
        given = [text for key, value in options.items() for text in ("-o", f"{key}={value}")]
        return self.docker("volume", "create", "-d", driver, *given, name).strip()

    # -- the processes --------------------------------------------------------------------------

    def start_dockerd(self) -> None:
        """Start dockerd.

        Raises:
            DockerError: it does not answer in time; with its log.
        """
        data = self.directory
        config = data / "daemon.json"  # instead of the machine's own
        config.write_text(json.dumps({"live-restore": self.live_restore, "shutdown-timeout": 5}))
        command = [self._daemon, "--host", HOST_URL, "--data-root", str(data / "docker")]
        # Short, because containerd's sockets lie below it and have 107 bytes for their paths.
        command += ["--exec-root", "/run/dockerd", "--pidfile", "/run/dockerd.pid"]
        command += [f"--config-file={config}", "--group=root", "--ip6tables=false"]
        if self._network is None:
            command += ["--iptables=false", "--bridge=none"]
        process = self._dockerd = self.start(*command, log=data / "dockerd.log")
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(DockerError):
                self.docker("version", timeout=20)
                return
            if process.poll() is not None or time.monotonic() > deadline:
                raise DockerError(f"dockerd did not start\n{self.logs()}")
            time.sleep(0.05)

    def stop_dockerd(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End dockerd and wait for its end. With SIGKILL its containers live on."""
        process, self._dockerd = self._dockerd, None
        _end(process, how, "dockerd", self.logs)
        # Its containerd dies with it, a moment later; a dockerd that starts meanwhile would take
        # that one for alive, and wait for it in vain.
        with contextlib.suppress(OSError):
            pid = (self.directory / "run/dockerd/containerd/containerd.pid").read_text()
            wait_until(lambda: not Path("/proc", pid).exists(), STOP_S, f"containerd {pid} is dead")

    def restart_dockerd(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it and start it again."""
        self.stop_dockerd(how)
        self.start_dockerd()

    def start_plugin(self, *options: str) -> None:
        """Start ``pyscsi-init serve --docker``; it takes connections on return.

        Raises:
            DockerError: it does not come up in time; with its log.
        """
        command = [sys.executable, "-m", "fusefs.cli", "serve", "--docker", PLUGIN_SOCKET, *options]
        given = []
        if self._listener is not None:
            given = [self._listener.fileno()]
            script = (
                f'exec 3<&{given[0]}; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=docker exec "$@"'
            )
            command = ["bash", "-c", script, "bash", *command]
        process = self.start(*command, log=self.directory / "plugin.log", pass_fds=given)
        self._plugin = process
        deadline = time.monotonic() + START_S
        while not self._plugin_listens():
            if process.poll() is not None or time.monotonic() > deadline:
                raise DockerError(f"the plugin did not start\n{self.logs()}")
            time.sleep(0.05)

    def _through_root(self, path: str) -> str:
        """A path inside as it is seen from here; short, as the address of a socket has to be."""
        return f"/proc/{self.namespace.pid}/root{path}"

    def _plugin_listens(self) -> bool:
        with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
            client.connect(self._through_root(PLUGIN_SOCKET))
            return True
        return False

    @property
    def plugin_pid(self) -> int:
        """The process id of ``pyscsi-init serve``."""
        assert self._plugin is not None, "the plugin does not run"
        return self._plugin.pid

    def stop_plugin(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End the plugin and wait for its end; its volumes go on without it."""
        process, self._plugin = self._plugin, None
        _end(process, how, "the plugin", self.logs)

    def restart_plugin(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End it and start it again."""
        self.stop_plugin(how)
        self.start_plugin()

    def our_processes(self) -> dict[int, str]:
        """The plugin, the holder, the zygote and the workers: number and command line."""
        lines = {pid: processes.command_line(pid) for pid in self.namespace.processes()}
        return {pid: line for pid, line in lines.items() if any(name in line for name in OURS)}

    def kill_all_of_ours(self) -> None:
        """SIGKILL every process of ours, also what they start meanwhile, and wait for all."""

        def all_dead() -> bool:
            found = self.our_processes()
            for pid in found:
                processes.end(pid, timeout=30)
            return not found

        if self._plugin is not None:
            self.stop_plugin(signal.SIGKILL)
        wait_until(all_dead, STOP_S, "every process of ours is dead")

    # -- what there is, and what is left ----------------------------------------------------------

    def logs(self) -> str:
        """The ends of dockerd's and the plugin's logs."""
        texts = []
        for name in ("dockerd.log", "plugin.log", "volumes/holder.log"):
            with contextlib.suppress(OSError):
                lines = (self.directory / name).read_text(errors="replace").splitlines()
                texts.append("\n".join([f"--- {name}", *lines[-60:]]))
        return "\n".join(texts)

    def note_connections(self) -> None:
        """Remember the FUSE connections that are mounted now, to look for them at the end."""
        self._connections |= {
            mounted.device_minor
            for mounted in self.namespace.mounts()
            if mounted.fstype.startswith("fuse") and mounted.fstype != "fusectl"
        }

    def leftovers(self) -> list[str]:
        """What is there of volumes: all of it has to be gone when no container uses any."""
        mounts = self.namespace.mounts()
        theirs = self._mounts_of_the_engines
        found = [str(mounted) for mounted in mounts if mounted.mountpoint not in theirs]
        found += loop_devices_over(str(self.directory))
        found += of_no_mount(self._connections & self.namespace.fuse_connections(), mounts)
        plugin = self._plugin.pid if self._plugin else 0
        found += [
            f"process {p} ({line})" for p, line in self.our_processes().items() if p != plugin
        ]
        volumes = self.directory / "volumes/volumes"
        if volumes.exists():
            found += [f"directory {path}" for path in volumes.iterdir()]
        return found

    def check_nothing_left(self, seconds: float = SETTLE_S) -> None:
        """Fail unless all of :meth:`leftovers` goes within ``seconds``.

        Raises:
            AssertionError: it names what is left.
        """
        deadline = time.monotonic() + seconds
        while left := self.leftovers():
            if time.monotonic() > deadline:
                raise AssertionError(f"left behind: {'; '.join(left)}\n{self.logs()}")
            time.sleep(0.1)

    def remove_containers(self) -> None:
        """``docker rm --force`` of all of them."""
        if left := self.docker("ps", "--all", "--quiet").split():
            self.docker("rm", "--force", "--volumes", *left)

    def close(self) -> None:
        """End everything, whatever state it is in."""
        try:
            if self._dockerd is not None and self._dockerd.poll() is None:
                with contextlib.suppress(DockerError):
                    self.remove_containers()
            self.stop_dockerd()
            self.stop_plugin()
        finally:
            self._end_the_rest()
            self.namespace.close()
            if self._listener is not None:
                self._listener.close()

    def _end_the_rest(self) -> None:
        """Whatever is still inside: what a killed dockerd leaves, and the volumes' processes."""

        def nobody() -> bool:
            found = self.namespace.processes()
            for pid in found:
                processes.end(pid, timeout=30)
            return not found

        if self.namespace.is_there:
            wait_until(nobody, STOP_S, "the mount namespace is empty")


def _end(
    process: subprocess.Popen[bytes] | None,
    how: signal.Signals,
    name: str,
    logs: Callable[[], str],
) -> None:
    if process is None:
        return
    process.send_signal(how)
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # Go and Python tell what they were at
        time.sleep(1)
        process.kill()
        process.wait(STOP_S)
        raise DockerError(f"{name} did not end on {how.name}\n{logs()}") from None
