# SPDX-License-Identifier: Apache-2.0
"""The gRPC server on its unix socket.

The socket is only for root: whoever can connect to it can mount any LUN. A socket file that a
killed server left behind is taken over; one that somebody listens on is not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import grpc
from google.protobuf.message_factory import GetMessageClass

from fusefs.csi.calls import Calls, answering
from fusefs.csi.controller import Controller
from fusefs.csi.identity import Identity
from fusefs.csi.node import Node
from fusefs.csi.wire import csi_pb2 as csi
from fusefs.errors import InvalidSpec
from fusefs.host.sockets import LONGEST_PATH, remove_socket, room_for
from fusefs.volume.hostcalls import host_call
from fusefs.volume.manager import VolumeManager
from fusefs.volume.provision import Provisioner

SCHEME = "unix:"
GRACE_S = 2.0
"""What calls that only look are given to end, when the server stops."""


def socket_path(address: str) -> Path:
    """The path in ``unix:///csi/csi.sock``, ``unix:/csi/csi.sock`` or ``/csi/csi.sock``.

    Raises:
        InvalidSpec: it is something else; a network address above all, because nobody would be
            asked there who he is.
    """
    path = address
    if address.startswith(SCHEME):
        path = address.removeprefix(SCHEME)
        if path.startswith("//"):
            path = path[2:]
    if not path.startswith("/"):
        raise InvalidSpec(
            "address", address, "is no unix socket", remedy="write unix:///csi/csi.sock"
        )
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise InvalidSpec("address", address, f"is longer than {LONGEST_PATH} bytes")
    return Path(path)


class CsiServer:
    """The driver: Identity, and Node for ``manager``, Controller for ``provisioners`` (None: this
    process does not have that service)."""

    def __init__(
        self,
        address: str,
        *,
        manager: VolumeManager | None,
        provisioners: Iterable[Provisioner] | None,
        node_id: str,
        max_volumes: int = 0,
    ) -> None:
        """Nothing is touched before :meth:`serve`.

        Raises:
            InvalidSpec: ``address`` is no unix socket.
        """
        self.path = socket_path(address)
        self._calls = Calls()
        self._services: dict[str, Any] = {
            "Identity": Identity(
                host=manager.host if manager is not None else None,
                controller=provisioners is not None,
            )
        }
        if manager is not None:
            self._services["Node"] = Node(
                manager, self._calls, node_id=node_id, max_volumes=max_volumes
            )
        if provisioners is not None:
            self._services["Controller"] = Controller(provisioners, self._calls)

    async def serve(
        self,
        stop: anyio.Event,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until ``stop`` is set; ``task_status`` is told when calls are answered.

        What is under way then is cancelled, which undoes it, and the socket's file goes.

        Raises:
            AlreadyServed: somebody listens there.
            InvalidSpec: the address cannot be listened on.
        """
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        for name, service in self._services.items():
            server.add_generic_rpc_handlers((_handler(name, service),))
        made = await host_call(lambda: self._listen(server))
        await server.start()
        try:
            task_status.started()
            await stop.wait()
        finally:
            with anyio.CancelScope(shield=True):
                await self._calls.stop()
                await server.stop(GRACE_S)
                await host_call(lambda: remove_socket(self.path, made))

    def _listen(self, server: grpc.aio.Server) -> os.stat_result:
        with room_for(self.path):
            try:
                server.add_insecure_port(f"unix:{self.path}")
            except RuntimeError as error:
                raise InvalidSpec(
                    "address", str(self.path), f"cannot be listened on ({error})"
                ) from error
            return self.path.lstat()

    def reload(self) -> None:
        """SIGHUP: there is nothing that could be looked at again."""


def _handler(name: str, service: Any) -> grpc.GenericRpcHandler:
    """The methods of one service; a method that ``service`` lacks is UNIMPLEMENTED."""
    description = csi.DESCRIPTOR.services_by_name[name]
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            answering(method.name, getattr(service, method.name)),
            request_deserializer=GetMessageClass(method.input_type).FromString,
            response_serializer=GetMessageClass(method.output_type).SerializeToString,
        )
        for method in description.methods
    }
    return grpc.method_handlers_generic_handler(description.full_name, handlers)
