# SPDX-License-Identifier: Apache-2.0
"""`vipbee explain`: what the datapath does with a packet and why, said from the tables alone.

    question ─► senders ─► sockets  ─┐
        who asks, and by which       ├─ frontends ─► choice ─► paths ─► story ─► view
        device        └─► packets  ──┘      tracked: connections that exist

Each function that decides follows one of bpf/, named in its docstring, check by check in its
order; tests/bpf/test_explain_*.py compare the two. Reads through `lookups` only, reads no
clock and writes nothing. What only the moment can tell is not foreseen: routes, neighbours,
MTU, TTL, ports that run out, rate limits.
"""
