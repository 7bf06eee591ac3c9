# SPDX-License-Identifier: Apache-2.0
"""The pods of a manifest as containers of a Docker Engine: the same image, command, environment,
rights, devices, paths of the node and mount propagation as kubelet gives them.

The node is the engine's mount namespace, with a /run and a /var/lib of its own, so that a manifest
runs as it stands. What kubelet does besides (when to start a pod, probes, grace periods) is the
caller's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from .closing import Closing
from .dockerd import DockerEngine
from .waiting import wait_until

PRIVILEGED = (
    # What "privileged" gives that volumes need. A machine that lacks a capability itself, as one
    # in a container may, cannot start a privileged container at all.
    *("--cap-add=SYS_ADMIN", "--device-cgroup-rule=a *:* rwm"),
    *("--security-opt=apparmor=unconfined", "--security-opt=seccomp=unconfined"),
    "--security-opt=systempaths=unconfined",
)
PROPAGATIONS = {"None": "rprivate", "HostToContainer": "rslave", "Bidirectional": "rshared"}
READY_S = 120.0

Object = Mapping[str, Any]


class Pod(Closing):
    """One container of a pod, running; ``with`` removes it at the end."""

    def __init__(
        self,
        engine: DockerEngine,
        workload: Object,
        container: str,
        name: str,
        *,
        image: str,
        fields: Mapping[str, str] | None = None,
        network: str = "none",
    ) -> None:
        """``workload``: a DaemonSet, Deployment or the like. ``image``: what the engine has it
        under. ``fields``: what the downward API would say, by path. ``network``: the engine's that
        stands for the network of pods."""
        self._engine = engine
        self._pod: Object = workload["spec"]["template"]["spec"]
        (self._container,) = (c for c in self._pod["containers"] if c["name"] == container)
        self.name = name
        self._image = image
        self._fields = dict(fields or {})
        self._network = network
        self._is_there = False

    def begin(self) -> None:
        """Start it, and wait until its probes say that it is ready."""
        self.start()
        self.wait_ready()

    def start(self) -> None:
        engine = self._engine
        for path in self._directories():
            engine.run("mkdir", "-p", path)
        engine.docker("run", "--detach", "--name", self.name, *self.options(), *self.command())
        self._is_there = True

    def wait_ready(self) -> None:
        """Wait for the startup and the readiness probe, where it has them as commands."""
        for kind in ("startupProbe", "readinessProbe"):
            if command := self._container.get(kind, {}).get("exec", {}).get("command"):
                # Kubelet starts it inside the container, and looks at its exit status.
                probe = partial(self._succeeds, command)
                wait_until(probe, READY_S, f"{self.name}: {kind}")

    def _succeeds(self, command: list[str]) -> bool:
        assert self.runs(), self.logs()
        done = self._engine.run(
            *("sh", "-c", 'docker exec "$@" >/dev/null 2>&1 && echo yes || echo no', "sh"),
            *(self.name, *command),
        )
        return done.strip() == "yes"

    def runs(self) -> bool:
        state = self._engine.docker("inspect", "--format", "{{.State.Running}}", self.name)
        return state.strip() == "true"

    @property
    def pid(self) -> int:
        """Its first process."""
        return int(self._engine.docker("inspect", "--format", "{{.State.Pid}}", self.name))

    def logs(self) -> str:
        return self._engine.docker("logs", self.name, check=False)

    def kill(self) -> None:
        """SIGKILL for all of its processes, as when its memory is used up, and remove it."""
        self._engine.docker("kill", self.name)
        self._remove()

    def close(self) -> None:
        """Delete it, if it is there: SIGTERM, the grace period, SIGKILL."""
        if self._is_there:
            grace = self._pod.get("terminationGracePeriodSeconds", 30)
            self._engine.docker("stop", "--time", str(grace), self.name)
            self._remove()

    def _remove(self) -> None:
        self._engine.docker("rm", "--force", self.name)
        self._is_there = False

    # -- what the manifest says -----------------------------------------------------------------

    def options(self) -> list[str]:
        """The options of ``docker run``."""
        context = self._container.get("securityContext", {})
        found = [f"--env={name}={value}" for name, value in self._environment().items()]
        of_the_host = self._pod.get("hostNetwork", False)
        found.append(f"--network={'host' if of_the_host else self._network}")
        if self._pod.get("hostPID"):
            found.append("--pid=host")
        if context.get("privileged"):
            found += PRIVILEGED
        if context.get("readOnlyRootFilesystem"):
            found.append("--read-only")
        found += [f"--cap-drop={each}" for each in context.get("capabilities", {}).get("drop", [])]
        if "runAsUser" in context:
            found.append(f"--user={context['runAsUser']}")
        volumes = {each["name"]: each for each in self._pod.get("volumes", [])}
        for mount in self._container.get("volumeMounts", []):
            inside, volume = mount["mountPath"], volumes[mount["name"]]
            if "emptyDir" in volume:
                found.append(f"--mount=type=tmpfs,destination={inside}")
            else:
                how = PROPAGATIONS[mount.get("mountPropagation", "None")]
                source = volume["hostPath"]["path"]
                read_only = ",readonly" if mount.get("readOnly") else ""
                found.append(
                    f"--mount=type=bind,source={source},destination={inside},"
                    f"bind-propagation={how}{read_only}"
                )
        return found

    def command(self) -> list[str]:
        """Image and arguments, with $(NAME) of the environment put in."""
        assert "command" not in self._container, "an entry point of its own is not translated"
        values = self._environment()
        return [
            self._image,
            *(
                re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], argument)
                for argument in self._container.get("args", [])
            ),
        ]

    def _environment(self) -> dict[str, str]:
        return {
            each["name"]: (
                self._fields[each["valueFrom"]["fieldRef"]["fieldPath"]]
                if "valueFrom" in each
                else each["value"]
            )
            for each in self._container.get("env", [])
        }

    def _directories(self) -> list[str]:
        """What kubelet makes on the node, if it is not there."""
        paths = (each.get("hostPath", {}) for each in self._pod.get("volumes", []))
        return [path["path"] for path in paths if path.get("type") == "DirectoryOrCreate"]
