# SPDX-License-Identifier: Apache-2.0
"""PersistentVolumes, and the volumes of pods and of what makes pods, as wholes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fusefs.convert.workloads import POD_SPECS
from fusefs.errors import InvalidSpec
from tests.fusefs.convert.converting import IQN, convert, parsed, pod, volume


def test_the_rest_of_a_persistent_volume_stays() -> None:
    given = volume(
        spec="""\
        persistentVolumeReclaimPolicy: Retain
        storageClassName: slow
        mountOptions: [noatime, nodiratime]
        volumeMode: Filesystem
        claimRef: {apiVersion: v1, kind: PersistentVolumeClaim, namespace: shop, name: goods}
        nodeAffinity:
          required:
            nodeSelectorTerms:
            - matchExpressions: [{key: zone, operator: In, values: [a]}]
        """,
        metadata="labels: {tier: disk}\nannotations: {mine: 'yes'}",
    )
    (before,) = parsed(given)
    found = convert(given)
    after = found.only("PersistentVolume")
    source = after["spec"].pop("csi")
    before["spec"].pop("iscsi")
    assert after == before
    assert source["volumeHandle"] == "disk1"
    assert found.report.converted[0].made == ("PersistentVolume/disk1",)
    assert not found.notes()


@pytest.mark.parametrize(("policy", "noted"), [("Retain", 0), ("Delete", 1), ("Recycle", 1)])
def test_the_reclaim_policy_stays_and_is_told(policy: str, noted: int) -> None:
    found = convert(volume(spec=f"persistentVolumeReclaimPolicy: {policy}"))
    assert found.only("PersistentVolume")["spec"]["persistentVolumeReclaimPolicy"] == policy
    assert len(found.notes("action")) == noted


def test_access_modes_that_destroy_are_told() -> None:
    given = volume().replace("- ReadWriteOnce", "- ReadWriteMany")
    assert convert(given).notes("action") == [("action", "spec.accessModes")]


@pytest.mark.parametrize(
    ("modes", "level", "says"),
    [
        ("[ReadOnlyMany, ReadWriteOnce]", "action", "ReadOnlyMany, so no pod writes"),
        ("[ReadWriteOnce, ReadOnlyMany]", "action", "ReadWriteOnce, so a second node is refused"),
        ("[ReadOnlyMany]", "info", "is read-only now"),
        ("[ReadWriteOnce]", "", ""),
        ("[ReadWriteOncePod]", "", ""),
    ],
)
def test_kubelet_tells_a_csi_driver_one_access_mode(modes: str, level: str, says: str) -> None:
    """In-tree they only decided which claim fits."""
    found = convert(volume().replace("accessModes:\n  - ReadWriteOnce", f"accessModes: {modes}"))
    assert found.notes() == ([(level, "spec.accessModes")] if level else [])
    assert not says or says in found.report.notes[0].message


def test_read_only_of_a_persistent_volume_is_heeded_now() -> None:
    found = convert(volume("readOnly: true"))
    assert found.notes() == [("action", "spec.csi.readOnly")]
    assert "was not heeded" in found.report.notes[0].message


def test_mount_options_of_the_annotation_become_the_field() -> None:
    """CSI volumes do not heed the annotation."""
    options = "annotations: {volume.beta.kubernetes.io/mount-options: 'nodev, noexec'}"
    found = convert(volume(spec="mountOptions: [noatime]", metadata=options))
    after = found.only("PersistentVolume")
    assert after["spec"]["mountOptions"] == ["noatime", "nodev", "noexec"]
    assert "annotations" not in after["metadata"]


def test_what_a_cluster_wrote_is_left_out() -> None:
    """A source cannot be changed in place, and what is made anew has no uid."""
    given = (
        volume(
            spec="claimRef: {kind: PersistentVolumeClaim, namespace: shop, name: goods, uid: u, "
            "resourceVersion: '7'}",
            metadata="uid: u1\nresourceVersion: '5'\ncreationTimestamp: '2024-01-01T00:00:00Z'\n"
            "annotations: {pv.kubernetes.io/bound-by-controller: 'yes', "
            "pv.kubernetes.io/provisioned-by: org.example.old}\n"
            "finalizers: [external-provisioner.volume.kubernetes.io/finalizer, mine.org/keep, "
            "external-attacher/org-example-old]",
        )
        + "status: {phase: Bound}\n---\n"
        "apiVersion: v1\nkind: PersistentVolumeClaim\n"
        "metadata: {name: goods, namespace: shop, uid: u, "
        "annotations: {pv.kubernetes.io/bind-completed: 'yes', mine: 'yes'}}\n"
        "spec: {accessModes: [ReadWriteOnce], volumeName: disk1, "
        "resources: {requests: {storage: 1Gi}}}\nstatus: {phase: Bound}\n---\n"
        "apiVersion: v1\nkind: PersistentVolumeClaim\n"
        "metadata: {name: other, namespace: shop, uid: x}\n"
        "spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n"
    )
    found = convert(given)
    made, claimed, other = found.objects
    assert made["metadata"] == {"name": "disk1", "finalizers": ["mine.org/keep"]}
    assert made["spec"]["claimRef"] == {
        "kind": "PersistentVolumeClaim", "namespace": "shop", "name": "goods",
    }  # fmt: skip
    assert "status" not in made
    assert claimed["metadata"] == {
        "name": "goods", "namespace": "shop", "annotations": {"mine": "yes"},
    }  # fmt: skip
    assert "status" not in claimed
    assert other["metadata"]["uid"] == "x"
    assert [note.place.name for note in found.report.notes if note.level == "action"] == [
        "disk1", "goods",
    ]  # fmt: skip


def test_the_volume_of_a_pod_becomes_a_volume_and_a_claim() -> None:
    found = convert(pod("fsType: xfs"), capacity="20Gi")
    (used,) = found.only("Pod")["spec"]["volumes"]
    name = used["persistentVolumeClaim"]["claimName"]
    assert used == {"name": "data", "persistentVolumeClaim": {"claimName": name}}
    made, claim = found.only("PersistentVolume"), found.only("PersistentVolumeClaim")
    assert made["metadata"]["name"] == claim["metadata"]["name"] == name
    assert claim["metadata"]["namespace"] == "shop"
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "",
        "volumeMode": "Filesystem",
        "volumeName": name,
        "resources": {"requests": {"storage": "20Gi"}},
    }
    spec = made["spec"]
    assert spec["claimRef"]["namespace"] == "shop"
    assert spec["claimRef"]["name"] == name
    assert spec["persistentVolumeReclaimPolicy"] == "Retain"
    assert (spec["storageClassName"], spec["capacity"]) == ("", {"storage": "20Gi"})
    assert found.csi()["volumeHandle"] == name
    assert not found.notes()
    assert found.report.converted[0].made == (
        f"PersistentVolume/{name}", f"PersistentVolumeClaim/shop/{name}",
    )  # fmt: skip


def test_a_namespace_that_is_not_told() -> None:
    found = convert(pod(metadata=""))
    assert found.only("PersistentVolumeClaim")["metadata"]["namespace"] == "default"
    assert found.notes("action") == [("action", "spec.volumes[0]")]
    found = convert(pod(metadata=""), namespace="shop")
    assert found.only("PersistentVolumeClaim")["metadata"]["namespace"] == "shop"
    assert not found.notes("action")


def test_pods_that_share_a_lun_share_a_claim() -> None:
    """As they shared a session and a mount on the node."""
    reader = pod("readOnly: true")
    found = convert(reader + "---\n" + reader.replace("name: web", "name: second"))
    kinds = [each["kind"] for each in found.objects]
    assert kinds == ["Pod", "PersistentVolume", "PersistentVolumeClaim", "Pod"]
    names = {
        each["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
        for each in found.objects
        if each["kind"] == "Pod"
    }
    assert len(names) == 1
    assert len(found.report.converted) == 2


def test_two_namespaces_have_a_volume_each() -> None:
    reader = pod("readOnly: true")
    found = convert(reader + "---\n" + reader.replace("shop", "bank"))
    handles = {
        each["spec"]["csi"]["volumeHandle"]
        for each in found.objects
        if each["kind"] == "PersistentVolume"
    }
    assert len(handles) == 2
    assert not found.notes("action")


def test_a_lun_with_a_writer_in_two_namespaces_is_told() -> None:
    found = convert(pod() + "---\n" + pod("readOnly: true").replace("shop", "bank"))
    (note,) = (each for each in found.report.notes if each.level == "action")
    assert "a node refuses to have both" in note.message
    assert note.place.namespace == "bank"


def test_the_name_is_the_same_in_every_run() -> None:
    names = {convert(pod()).only("PersistentVolume")["metadata"]["name"] for _ in range(2)}
    assert len(names) == 1
    name = names.pop()
    assert name.startswith("iscsi-storage-0-")
    assert convert(pod("fsType: xfs")).only("PersistentVolume")["metadata"]["name"] != name
    long = convert(pod(f"iqn: iqn.2015-02.example.com:{'_X' * 95}"))
    assert len(long.only("PersistentVolume")["metadata"]["name"]) < 64


def template() -> dict[str, Any]:
    volumes = [{"name": "data", "iscsi": {"targetPortal": "10.0.2.15", "iqn": IQN, "lun": 3}}]
    spec = {"containers": [{"name": "main", "image": "busybox"}], "volumes": volumes}
    return {"metadata": {"labels": {"app": "x"}}, "spec": spec}


def workload(kind: str) -> dict[str, Any]:
    selector = {"matchLabels": {"app": "x"}}
    made: dict[str, Any] = {"apiVersion": "apps/v1", "kind": kind}
    made["metadata"] = {"name": "w", "namespace": "shop"}
    match kind:
        case "Pod":
            return made | {"apiVersion": "v1", "spec": template()["spec"]}
        case "PodTemplate":
            return made | {"apiVersion": "v1", "template": template()}
        case "ReplicationController":
            return made | {"apiVersion": "v1", "spec": {"template": template()}}
        case "Job" | "CronJob":
            pods = template()
            pods["spec"]["restartPolicy"] = "Never"
            spec: dict[str, Any] = {"template": pods}
            if kind == "CronJob":
                spec = {"schedule": "0 * * * *", "jobTemplate": {"spec": spec}}
            return made | {"apiVersion": "batch/v1", "spec": spec}
        case "StatefulSet":
            spec = {"serviceName": "s", "selector": selector, "template": template()}
            return made | {"spec": spec}
        case _:
            return made | {"spec": {"selector": selector, "template": template()}}


@pytest.mark.parametrize("kind", POD_SPECS)
def test_each_kind_that_makes_pods(kind: str) -> None:
    found = convert(json.dumps(workload(kind)))  # JSON is YAML
    spec: Any = found.only(kind)
    for step in POD_SPECS[kind]:
        spec = spec[step]
    name = found.only("PersistentVolumeClaim")["metadata"]["name"]
    assert spec["volumes"] == [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]
    assert found.attributes()["lun"] == "3"
    path = ".".join(POD_SPECS[kind])
    assert found.report.converted[0].place.field == f"{path}.volumes[0].iscsi"


SERVER = {"uid": "u", "resourceVersion": "5", "creationTimestamp": "2024-01-01T00:00:00Z"}


def test_a_workload_that_came_from_a_cluster_can_be_applied_again() -> None:
    """With its old resourceVersion it would be refused as soon as it was scaled down."""
    given = workload("Deployment")
    given["metadata"] |= SERVER
    given["status"] = {"readyReplicas": 1}
    found = convert(json.dumps(given))
    assert found.only("Deployment")["metadata"] == {"name": "w", "namespace": "shop"}
    assert "status" not in found.only("Deployment")
    assert not found.notes("action")


def test_a_job_that_came_from_a_cluster() -> None:
    """Its template cannot be changed, and a new Job chooses its pods anew."""
    given = workload("Job")
    given["metadata"] |= SERVER
    labels = {"batch.kubernetes.io/controller-uid": "u", "controller-uid": "u", "job-name": "w"}
    given["metadata"]["labels"] = dict(labels)
    given["spec"]["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}}
    given["spec"]["template"]["metadata"]["labels"] |= labels
    found = convert(json.dumps(given))
    made = found.only("Job")
    assert made["metadata"] == {"name": "w", "namespace": "shop"}
    assert "selector" not in made["spec"]
    assert made["spec"]["template"]["metadata"]["labels"] == {"app": "x"}
    assert [message.message.split(";")[0] for message in found.report.notes[1:]] == [
        "is a Job: one that is in a cluster cannot be changed",
        "came from a cluster",
    ]


def test_the_selector_that_somebody_wrote_for_a_job_stays() -> None:
    given = workload("Job")
    given["spec"] |= {"manualSelector": True, "selector": {"matchLabels": {"job-name": "mine"}}}
    given["spec"]["template"]["metadata"]["labels"]["job-name"] = "mine"
    found = convert(json.dumps(given)).only("Job")
    assert found["spec"]["selector"] == {"matchLabels": {"job-name": "mine"}}
    assert found["spec"]["template"]["metadata"]["labels"]["job-name"] == "mine"


def test_writers_in_several_pods_are_told() -> None:
    daemons = convert(json.dumps(workload("DaemonSet")))
    assert any("several pods" in note.message for note in daemons.report.notes)
    replicas = workload("Deployment")
    replicas["spec"]["replicas"] = 3
    assert any(
        "several pods" in note.message for note in convert(json.dumps(replicas)).report.notes
    )
    replicas["spec"]["template"]["spec"]["volumes"][0]["iscsi"]["readOnly"] = True
    assert not convert(json.dumps(replicas)).notes("action")


def test_a_kind_that_is_not_known_is_left_and_told() -> None:
    given = """\
    apiVersion: example.com/v1
    kind: Rollout
    metadata: {name: r}
    spec:
      template:
        spec:
          volumes:
          - name: a
            emptyDir: {}
          - name: data
            iscsi: {targetPortal: 10.0.2.15, iqn: iqn.2015-02.example.com:storage, lun: 0}
    """
    found = convert(given)
    assert found.notes() == [("lost", "spec.template.spec.volumes[1].iscsi")]
    assert not found.report.converted


def test_the_items_of_a_list() -> None:
    one, two = (text.replace("\n", "\n  ").rstrip() for text in (volume(), pod()))
    given = f"apiVersion: v1\nkind: List\nitems:\n- {one}\n- {two}\n"
    found = convert(given)
    assert [each["kind"] for each in found.objects] == [
        "PersistentVolume", "Pod", "PersistentVolume", "PersistentVolumeClaim",
    ]  # fmt: skip
    assert [each.place.field for each in found.report.converted] == [
        "items[0].spec.iscsi", "items[1].spec.volumes[0].iscsi",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "field"),
    [
        (volume(spec="csi: {driver: x}"), "spec: has two volume sources"),
        (volume(spec="claimRef: goods"), "spec.claimRef 'goods': is no mapping"),
        (volume(spec="mountOptions: noatime"), "spec.mountOptions 'noatime': is no list"),
        (volume().replace("- ReadWriteOnce", "  x: y"), "spec.accessModes"),
        (volume().replace("name: disk1", "labels: {}"), "metadata.name: is missing"),
        (pod().replace("- name: data\n    iscsi", "  data:\n    iscsi"), "spec.volumes"),
        ("kind: PersistentVolume\nmetadata: {name: x}\nspec: {iscsi: 7}", "spec.iscsi 7"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_one_clear_error(given: str, field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        convert("a: b\n---\n" + given)
    text = str(caught.value)
    assert text.startswith("given.yaml, document 2, ")
    assert field in text


def test_a_source_that_comes_from_a_merge_key() -> None:
    given = (
        "base: &base {iscsi: {targetPortal: 10.0.2.15, iqn: iqn.2015-02.example.com:s, lun: 0}}\n"
        "apiVersion: v1\nkind: PersistentVolume\nmetadata: {name: x}\nspec:\n  <<: *base\n"
    )
    with pytest.raises(InvalidSpec, match="merge key"):
        convert(given)
