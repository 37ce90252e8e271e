# SPDX-License-Identifier: Apache-2.0
"""Kubernetes Services with eBPF instead of netfilter, beside any CNI or without Kubernetes."""

__version__ = "0.1.0"
