# SPDX-License-Identifier: Apache-2.0
"""The front door of Kubernetes and other orchestrators: a CSI driver on a unix socket.

It owns the shapes of the Container Storage Interface (messages, attribute names, error codes) and a
server. What is done to volumes is done by fusefs/volume.
"""
