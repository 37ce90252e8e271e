# SPDX-License-Identifier: Apache-2.0
"""Benchmark of the packet layer, see __main__.py."""
