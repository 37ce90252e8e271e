# SPDX-License-Identifier: Apache-2.0
"""Side by side with kube-proxy: the same traffic through every proxy, in turns.

services ─► iptables_rules, nftables_rules, API server   one cluster for everybody
place    ─► proxies                                      a lab each; all are up at once
traffic, changes, programming ─► result ─► page, plots
"""
