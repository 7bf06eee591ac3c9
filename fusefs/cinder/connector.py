# SPDX-License-Identifier: Apache-2.0
"""A connector as OpenStack knows them: ``connect_volume``, ``disconnect_volume`` and the rest.

The names, arguments and answers are those of os-brick's ``InitiatorConnector``, so the class may
stand wherever one is expected, alone or with that class beside it as a base; os-brick itself is not
needed. Its callers are synchronous, in threads, and call again what they are not sure of: every
call runs on an event loop of its own, waits for another one on the same volume, and finds done what
is done.

Who is not root, or has had its threads replaced by eventlet, has each call made in a process of
its own (elsewhere.py), by way of ``root_helper``.

No password is kept: each call reads the ``connection_properties`` that it is given. A volume of
Cinder is called ``cinder-<volume id>`` in ``pyscsi-init status``.
"""

from __future__ import annotations

import concurrent.futures
import functools
import logging
import os
import platform
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import anyio
import sniffio

from fusefs.cinder import volumes
from fusefs.cinder.connection import NAME_PREFIX, read_connection, volume_name
from fusefs.cinder.elsewhere import call_elsewhere
from fusefs.errors import NoSuchVolume, NotAllowed, VolumeError
from fusefs.host import LinuxHost
from fusefs.volume.manager import VolumeManager
from pyscsi_init.errors import IscsiError
from pyscsi_init.transport import host_initiator_name

T = TypeVar("T")
log = logging.getLogger("fusefs.cinder")

LOCK_SECONDS = 300.0
"""How long a call waits for another one on the same volume: its login may take a while, and callers
expect to be served one after the other, not to be refused."""

PROBE_BYTES = 4096


def get_connector_properties(
    root_helper: str | None,
    my_ip: str,
    multipath: bool,
    enforce_multipath: bool,
    host: str | None = None,
    execute: Callable[..., Any] | None = None,  # noqa: ARG001  (nothing is executed)
) -> dict[str, Any]:
    """What Cinder is told about this host, to export a volume to it.

    ``multipath`` asks Cinder for all portals of a volume. They are used one at a time: when one is
    lost, the session comes back over another. ``enforce_multipath`` goes to Cinder as it is: there
    is no daemon here that could be missing.

    Raises:
        ConfigurationError: this host has no initiator name and none can be made.
    """
    return {
        "platform": platform.machine(),
        "os_type": sys.platform,
        "ip": my_ip,
        "host": host or socket.gethostname(),
        "multipath": bool(multipath),
        "enforce_multipath": bool(enforce_multipath),
        **IscsiConnector.get_connector_properties(root_helper),
    }


class IscsiConnector:
    """Connects volumes of Cinder on this host. Safe to share between threads."""

    platform = "ALL"
    os_type = "LINUX"

    def __init__(
        self,
        root_helper: str | None = None,
        driver: Any = None,
        execute: Callable[..., Any] | None = None,
        device_scan_attempts: int = 3,
        *args: Any,  # noqa: ARG002  (other connectors take more)
        use_multipath: bool = False,
        run_dir: Path | str | None = None,
        state_dir: Path | str | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """``root_helper`` is as of :meth:`set_root_helper`; ``run_dir`` and ``state_dir`` are where
        volumes live, if not at the usual places. The other arguments are taken because callers
        give them, and change nothing."""
        self.device_scan_attempts = device_scan_attempts
        self.use_multipath = use_multipath
        self._run_dir, self._state_dir = run_dir, state_dir
        self.set_root_helper(root_helper)
        self.set_execute(execute)
        self.set_driver(driver)

    # -- what callers may set ---------------------------------------------------------------------

    def set_root_helper(self, helper: str | None) -> None:
        """The command before a call that needs root; not used by who is root."""
        self._root_helper = helper

    def set_execute(self, execute: Callable[..., Any] | None) -> None:
        """Kept and not used."""
        self._execute_with = execute

    def set_driver(self, driver: Any) -> None:
        """Kept and not used."""
        self.driver = driver

    # -- the host ---------------------------------------------------------------------------------

    @staticmethod
    def get_connector_properties(
        root_helper: str | None,
        *args: Any,  # noqa: ARG004
        **kwargs: Any,  # noqa: ARG004
    ) -> dict[str, Any]:
        """``initiator``, the name by which targets know this host: that of root, who logs in."""
        if _is_for_another(root_helper):
            found: dict[str, Any] = call_elsewhere(root_helper, "get_connector_properties", None)
            return found
        return {"initiator": host_initiator_name(), "do_local_attach": False}

    def get_search_path(self) -> str:
        """The directory of the devices."""
        return "/dev"

    def check_valid_device(
        self,
        path: str,
        run_as_root: bool = True,
    ) -> bool:
        """Whether ``path`` is there and can be read."""
        if run_as_root and _is_for_another(self._root_helper):
            return bool(self._elsewhere("check_valid_device", path))
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return len(os.read(descriptor, PROBE_BYTES)) > 0
        except OSError:
            return False
        finally:
            os.close(descriptor)

    def check_IO_handle_valid(self, handle: Any, data_type: type, protocol: str) -> None:  # noqa: N802
        """Raise TypeError unless ``handle``, where there is one, is a ``data_type``."""
        if handle and not isinstance(handle, data_type):
            raise TypeError(
                f"the handle of a {protocol} volume is a {type(handle).__name__}, "
                f"{data_type.__name__} was expected"
            )

    # -- volumes ----------------------------------------------------------------------------------

    def connect_volume(self, connection_properties: Mapping[str, Any]) -> dict[str, Any]:
        """Attach the volume; the same again returns the same.

        Returns ``type`` (``block``), ``path`` (the block device), and with them ``file`` (the block
        file under it) and ``name`` (of the volume here).

        Raises:
            InvalidSpec: the properties cannot be used.
            IscsiError, VolumeError: it could not be attached; nothing is left behind.
        """
        if _is_for_another(self._root_helper):
            found: dict[str, Any] = self._elsewhere("connect_volume", connection_properties)
            return found
        _require_root("connect a volume")
        connection = read_connection(connection_properties)
        status = self._run(functools.partial(volumes.attach, connection=connection))
        return {
            "type": "block",
            "path": status.loop,
            "file": status.file,
            "name": status.name,
        }

    def disconnect_volume(
        self,
        connection_properties: Mapping[str, Any],
        device_info: Mapping[str, Any] | None,  # noqa: ARG002  (the properties name the volume)
        force: bool = False,
        ignore_errors: bool = False,
    ) -> None:
        """Write out what is not written yet, log out, and take the device away; nothing there is
        fine.

        With ``force``, what cannot be ended in order is ended although it is in use or data could
        not be written out; what was lost by that is raised when it is over, or logged with
        ``ignore_errors``, which means nothing else and nothing without ``force``.

        Raises:
            MountBusy, DeviceBusy: somebody uses it (``pids``); nothing was done.
            VolumeError: it could not be ended in order; nothing was done.
            EndedWithLoss: it is gone, and something is lost.
        """
        is_for_another = _is_for_another(self._root_helper)
        if not is_for_another:
            _require_root("disconnect a volume")
        try:
            if is_for_another:
                self._elsewhere("disconnect_volume", connection_properties, None, force)
            else:
                name = volume_name(connection_properties)
                self._run(functools.partial(volumes.detach, name=name, force=force))
        except (VolumeError, IscsiError, OSError) as error:
            if not (force and ignore_errors):
                raise
            log.warning("of a volume's end was to be ignored: %s", error)

    def extend_volume(self, connection_properties: Mapping[str, Any]) -> int:
        """Take over the size that the volume has by now; returns it, in bytes.

        Raises:
            NoSuchVolume: it is not connected here.
            IscsiError, VolumeError: as of `pyscsi-init resize`.
        """
        if _is_for_another(self._root_helper):
            return int(self._elsewhere("extend_volume", connection_properties))
        _require_root("extend a volume")
        name = volume_name(connection_properties)
        return self._run(lambda manager: manager.resize(name)).size_bytes

    def get_volume_paths(self, connection_properties: Mapping[str, Any]) -> list[str]:
        """The device of the volume; an empty list where it is not connected."""
        if _is_for_another(self._root_helper):
            return list(self._elsewhere("get_volume_paths", connection_properties))
        _require_root("look for a volume")
        name = volume_name(connection_properties)
        try:
            status = self._run(lambda manager: manager.get(name))
        except NoSuchVolume:
            return []
        return [status.loop] if status.loop else []

    def get_all_available_volumes(
        self,
        connection_properties: Mapping[str, Any] | None = None,  # noqa: ARG002
    ) -> list[str]:
        """The devices of all volumes of Cinder here."""
        if _is_for_another(self._root_helper):
            return list(self._elsewhere("get_all_available_volumes"))
        _require_root("look for volumes")
        found = self._run(lambda manager: manager.status())
        return [each.loop for each in found if each.name.startswith(NAME_PREFIX) and each.loop]

    # -- inside -----------------------------------------------------------------------------------

    def _elsewhere(self, method: str, *arguments: Any) -> Any:
        directories = {"run_dir": self._run_dir, "state_dir": self._state_dir}
        return call_elsewhere(self._root_helper, method, *arguments, directories=directories)

    def _run(self, function: Callable[[VolumeManager], Awaitable[T]]) -> T:
        """Run one call to its end, whatever thread it comes from."""

        async def main() -> T:
            manager = VolumeManager(
                LinuxHost(), self._run_dir, self._state_dir, lock_timeout_s=LOCK_SECONDS
            )
            return await function(manager)

        try:
            sniffio.current_async_library()
        except sniffio.AsyncLibraryNotFoundError:
            return anyio.run(main)
        # The caller blocks its own event loop; ours needs a thread that has none.
        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            return executor.submit(anyio.run, main).result()


def _require_root(what: str) -> None:
    if os.geteuid() != 0:
        raise NotAllowed(what, "it needs root", remedy="give a root_helper, such as 'sudo'")


def _is_for_another(root_helper: str | None) -> bool:
    """Whether a call is to be made in a process of its own: by the root helper, or because eventlet
    has replaced the threads of this one, and no event loop can run in those that it puts there."""
    patcher = sys.modules.get("eventlet.patcher")
    if patcher is not None and patcher.is_monkey_patched("thread"):
        return True
    return bool(root_helper) and os.geteuid() != 0
