# SPDX-License-Identifier: Apache-2.0
"""The connector here in place of os-brick's own for iSCSI, in a service that uses os-brick.

os-brick finds its connectors by name in tables: one, for each architecture, of who connects a
volume, and a list of who is asked what Cinder is told of this host. In both the iSCSI connector has
to be ours: that of os-brick tells no initiator name on a host without open-iscsi, or another one.
"""

from __future__ import annotations

import importlib
from typing import Any

from fusefs.errors import NotAllowed

OURS = "fusefs.cinder.connector.IscsiConnector"
THEIRS = "os_brick.initiator.connectors.iscsi.ISCSIConnector"
PROTOCOL = "ISCSI"


def replace_in_os_brick() -> None:
    """From now on os-brick makes our connector for iSCSI; call it before the first volume. Again
    changes nothing. iSER stays os-brick's.

    Raises:
        NotAllowed: os-brick is not there, or has other tables than those that are known.
    """
    what = "take the place of os-brick's iSCSI connector"
    try:
        factory: Any = importlib.import_module("os_brick.initiator.connector")
    except ImportError as error:
        raise NotAllowed(what, f"the Python package {error.name} is missing") from error
    tables = [
        table
        for name, table in vars(factory).items()
        if name.startswith("_connector_mapping_") and PROTOCOL in table
    ]
    asked = getattr(factory, "unix_connector_list", None)
    if not tables or not isinstance(asked, list) or not {OURS, THEIRS} & set(asked):
        raise NotAllowed(
            what,
            "this version of os-brick has other tables",
            remedy="make IscsiConnector where the service makes its connectors",
        )
    for table in tables:
        table[PROTOCOL] = OURS
    asked[:] = [OURS if name == THEIRS else name for name in asked]
