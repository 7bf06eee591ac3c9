# SPDX-License-Identifier: Apache-2.0
"""Several ways to one volume, where an array gives each portal a target name of its own."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from fusefs.spec import VolumeSpec
from pyscsi_init.errors import ConnectError, LoginError, LunNotFound

T = TypeVar("T")
log = logging.getLogger("fusefs.cinder")


async def by_any_way(
    specs: Sequence[VolumeSpec],
    start: Callable[[VolumeSpec], Awaitable[T]],
    *,
    present: str = "",
) -> T:
    """``start`` with the first spec by which the unit is to be had: a target that is down, that
    does not take this host, or that does not show the unit, may have a neighbour that does.

    ``present`` is the URL by which the volume is attached already: that one comes first.

    Raises:
        ConnectError, LoginError, LunNotFound: it is to be had by none; it is about the last one.
        and what ``start`` raises for another reason.
    """
    *others, last = sorted(specs, key=lambda spec: spec.url != present)
    for spec in others:
        try:
            return await start(spec)
        except (ConnectError, LoginError, LunNotFound) as error:
            log.warning("volume %r: trying its next target, because %s", spec.name, error)
    return await start(last)
