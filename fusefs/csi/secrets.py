# SPDX-License-Identifier: Apache-2.0
"""The CHAP credentials in the secrets of a call, under the names that iSCSI drivers gave them.

They become a Chap at once, which shows nothing of itself, and go no other way than to the login.
What is wrong is told by key, never by value.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fusefs.errors import InvalidSpec
from pyscsi_init.secret import Chap, Secret

log = logging.getLogger("fusefs.csi")

SESSION = "node.session.auth."
PARTS = ("username", "password", "username_in", "password_in")
"""Who we are and how we prove it; who the target is and how it must prove that (mutual CHAP)."""

DISCOVERY = ("discovery.sendtargets.auth.", "node.sendtargets.auth.")
"""For SendTargets, which no volume needs here: its portals are known. Taken and not used."""

NODE_DB = "node-db."
"""How democratic-csi marks what it writes into the database of iscsiadm."""

METHODS = ("authmethod",)


def read_secrets(secrets: Mapping[str, str], *, wanted: bool | None) -> Chap | None:
    """The credentials of a session; None for a login without CHAP.

    ``wanted`` is what the attributes say: True demands credentials, False ignores those that are
    there, None takes what there is.

    Raises:
        InvalidSpec: half of a pair, an unknown key, or nothing although it is wanted.
    """
    values = dict.fromkeys(PARTS, "")
    for key, value in secrets.items():
        name = key.removeprefix(NODE_DB)
        part = name.removeprefix(SESSION)
        if name.startswith(SESSION) and part in PARTS:
            values[part] = value
        elif name.startswith(SESSION) and part in METHODS:
            wanted = _method(key, value, wanted)
        elif name.startswith(DISCOVERY):
            continue
        elif key.startswith(NODE_DB):
            log.info("secret key %s is a setting of iscsiadm; it has no meaning here", key)
        else:
            raise InvalidSpec(
                "secret key",
                key,
                "is not known",
                remedy=f"known are {', '.join(SESSION + each for each in PARTS)}",
            )
    if wanted is False:
        return None
    return _chap(values, wanted=bool(wanted))


def _method(key: str, value: str, wanted: bool | None) -> bool | None:
    if value.upper() not in ("", "CHAP", "NONE"):
        raise InvalidSpec("secret key", key, "is neither CHAP nor None")
    return {"CHAP": True, "NONE": False}.get(value.upper(), wanted)


def _chap(values: Mapping[str, str], *, wanted: bool) -> Chap | None:
    for user, password in (("username", "password"), ("username_in", "password_in")):
        if bool(values[user]) != bool(values[password]):
            there, absent = (user, password) if values[user] else (password, user)
            raise InvalidSpec(
                "secret key", SESSION + there, f"comes without {SESSION}{absent}", remedy="add it"
            )
    if not values["username"]:
        if wanted or values["username_in"]:
            raise InvalidSpec(
                "secret key",
                SESSION + "username",
                "is missing, and the volume wants CHAP",
                remedy="name a Secret with it as nodeStageSecretRef (for an inline volume: "
                "nodePublishSecretRef)",
            )
        return None
    mutual = values["password_in"]
    return Chap(
        user=values["username"],
        secret=Secret(values["password"]),
        mutual_user=values["username_in"],
        mutual_secret=Secret(mutual) if mutual else None,
    )
