# SPDX-License-Identifier: Apache-2.0
"""Kubernetes manifests with other people's iSCSI volumes, made into ours.

In-tree ``iscsi:`` volumes, volumes of csi-driver-iscsi and node-manual volumes of democratic-csi
become volumes of the CSI driver here. Only text goes in and out: nothing is asked of a cluster.
"""
