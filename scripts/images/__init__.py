# SPDX-License-Identifier: Apache-2.0
"""What is made to be installed without a registry: ``python -m scripts.images WHAT``.

One root file system of Debian's packages and the project's wheel (``rootfs``) becomes a container
image (``image``) and a managed Docker plugin (``docker-plugin``). Packages come through apt and pip
as the machine has them configured; nothing here knows where from.
"""
