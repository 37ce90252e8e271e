# SPDX-License-Identifier: Apache-2.0
"""Taking Services over from a kube-proxy: see it, refuse beside it, remove what it left.

    running.py   is one alive?            rules.py      find and remove, all modes
    chains.py    which are its chains     iptables.py, nftables.py, ipvs.py    by mode
    watch.py     when

Must not touch a rule, table, set or device that kube-proxy did not make, nor what it made
if somebody else uses it now.
"""
