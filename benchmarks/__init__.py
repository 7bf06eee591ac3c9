# SPDX-License-Identifier: Apache-2.0
"""Measurements: peers and ours alternate in one run; medians and ratios are quoted."""
