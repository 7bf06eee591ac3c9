# SPDX-License-Identifier: Apache-2.0
"""The messages of the Container Storage Interface and nothing else: ``csi.proto`` and its output.

Everything in it but ``csi.proto`` and the loader ``csi_pb2.py`` is made by ``scripts/csi-wire``.
"""
