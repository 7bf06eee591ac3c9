# SPDX-License-Identifier: Apache-2.0
"""What comes out is what the CSI driver reads: the volume that was meant, field by field."""

from __future__ import annotations

import json

import pytest

from tests.fusefs.convert import converting, test_other_drivers

attributes = pytest.importorskip("fusefs.csi.attributes")

IN_TREE = """
portals: [10.0.2.16, '[2001:db8::1]:3261']
lun: 7
initiatorName: iqn.2026-01.com.example:node
chapAuthSession: true
secretRef: {name: chap}
readOnly: true
"""


@pytest.mark.parametrize("given", [converting.volume, converting.pod])
def test_in_tree(given: object) -> None:
    found = attributes.read_attributes(converting.convert(given(IN_TREE)).attributes())  # type: ignore[operator]
    assert str(found.url) == (
        f"iscsi://10.0.2.15:3260,10.0.2.16:3260,[2001:db8::1]:3261/{converting.IQN}/7"
    )
    assert found.wants_chap is True
    assert found.read_only is True
    assert found.format_if_blank is True
    assert found.fields["initiator_name"] == "iqn.2026-01.com.example:node"


def test_chap_for_discovery_alone_is_none_for_the_session() -> None:
    text = converting.volume("chapAuthDiscovery: true\nsecretRef: {name: c, namespace: n}")
    assert attributes.read_attributes(converting.convert(text).attributes()).wants_chap is False


def test_volumes_of_other_drivers() -> None:
    clear = json.dumps(test_other_drivers.CLEAR)
    for csi, chap in (
        (test_other_drivers.of_csi_driver_iscsi(secret=clear, sessionCHAPAuth="true"), True),
        (test_other_drivers.of_node_manual(), None),
    ):
        made = test_other_drivers.volume(csi).attributes()
        assert attributes.read_attributes(made).wants_chap is chap
