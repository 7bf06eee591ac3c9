# SPDX-License-Identifier: Apache-2.0
"""Whether a node is fit for volumes, as the liveness probe asks."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest

from fusefs.csi.errors import Code, Refused
from fusefs.csi.identity import Identity
from fusefs.csi.wire import csi_pb2 as csi
from fusefs.host import Capabilities, FakeHost

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]


class Lacking(FakeHost):
    """A host with other capabilities."""

    changes: dict[str, Any]

    def capabilities(self) -> Capabilities:
        return replace(super().capabilities(), **self.changes)


async def probe(**changes: Any) -> csi.ProbeResponse:
    host = Lacking()
    host.changes = changes
    return await Identity(host=host, controller=False).Probe(csi.ProbeRequest())


async def test_a_node_that_has_all() -> None:
    assert (await probe()).ready.value
    # A loop device that somebody is taking at this moment.
    assert (await probe(refused_devices={"/dev/loop3": errno.ENXIO})).ready.value


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"is_root": False}, "the rights of root"),
        ({"has_fuse": False}, "lacks /dev/fuse"),
        ({"has_loop": False}, "lacks /dev/loop-control"),
        ({"refused_devices": {"/dev/fuse": errno.EPERM}}, "the right to open /dev/fuse"),
    ],
)
async def test_what_it_lacks_is_told(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(Refused, match=text) as refused:
        await probe(**changes)
    assert refused.value.code is Code.FAILED_PRECONDITION
