# SPDX-License-Identifier: Apache-2.0
"""A block device as a file: the FUSE channels and what the file's operations mean.

:func:`make_channel` picks a channel by name. Mounting /dev/fuse is :mod:`fusefs.host`'s.
"""

from __future__ import annotations

from typing import Literal

from fusefs.errors import NotAllowed
from pyscsi_init.device.interface import BlockDevice

from .abi import InitReply
from .blockfile import BlockFile
from .channel import Channel, ChannelStatistics, Reactor
from .native import NativeChannel
from .slots import Outstanding, RequestSlots

ChannelKind = Literal["native", "pyfuse3"]

__all__ = [
    "BlockFile",
    "Channel",
    "ChannelKind",
    "ChannelStatistics",
    "InitReply",
    "NativeChannel",
    "Outstanding",
    "Reactor",
    "RequestSlots",
    "make_channel",
]


def make_channel(
    kind: ChannelKind,
    fd: int,
    device: BlockDevice,
    *,
    reactor: Reactor,
    read_only: bool = False,
    name: str = "lun",
    fua: bool = False,
    slots: RequestSlots | None = None,
) -> Channel:
    """The channel of this kind over ``fd``, a /dev/fuse that is mounted.

    With ``fua`` nothing is answered before it is on stable storage. ``slots`` hold what is to
    survive this process, and what a predecessor on this descriptor has left. Only the native
    channel has them; it makes its own where none are given.

    Raises:
        NotAllowed: ``pyfuse3`` was asked for and is not installed.
    """
    if kind == "native":
        return NativeChannel(
            reactor, fd, device, read_only=read_only, name=name, fua=fua, slots=slots
        )
    if slots is not None:
        raise ValueError("libfuse keeps requests to itself: it cannot use request slots")
    try:
        from .pyfuse3_channel import Pyfuse3Channel  # an optional dependency
    except ModuleNotFoundError as error:
        raise NotAllowed(
            "serve the block file by pyfuse3",
            f"the Python module {error.name} is not installed",
            remedy="pip install 'pyscsi-init[pyfuse3]', or use the channel native",
        ) from error

    return Pyfuse3Channel(fd, device, read_only=read_only, name=name, fua=fua)
