# SPDX-License-Identifier: Apache-2.0
"""The volume plugin protocol of Docker and Podman: shapes and a server; volumes are made below."""
