# SPDX-License-Identifier: Apache-2.0
"""What people and machines see of a node: views, metrics, health, and their two servers.

    Reader (KernelTables fits) ──► readings ──► view, status, metrics
    Health (pure state)        ──► http

Must not know the datapath: whoever opened the tables passes them in. Must not write.
"""
