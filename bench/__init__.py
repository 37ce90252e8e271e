# SPDX-License-Identifier: Apache-2.0
"""The product's benchmark: `python -m bench` prints the targets as ratios of one run.

Everything runs in network namespaces and cgroups made here and removed again.
"""
