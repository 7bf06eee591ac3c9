# SPDX-License-Identifier: Apache-2.0
"""Measurements. Method first: peers and ours alternate in one run, medians and ratios are quoted."""
