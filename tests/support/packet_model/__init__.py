# SPDX-License-Identifier: Apache-2.0
"""What the packet layer must do, in plain Python, written from the rules and not from the C.

`Model.step` takes a packet at a hook and answers with every outcome the rules accept.
Where the rules leave a choice (which backend, which source port) the model names the set
it must come from and then follows the choice that was made. Slow, obvious, no I/O.

    wire.py       bytes → Packet, and the incremental rewrite (D1-D20, D32-D41)
    world.py      what the agent programs: frontends, backends, devices, routes
    tracking.py   flows, the TCP state machine, lifetimes (D68-D98)
    decide.py     which frontend, which set, which verdict (R35-R95)
    icmp.py       errors inside and out, refusals (D48-D67, D135)
    outcome.py    outcomes, choices, comparison with what was observed
    node.py       programs of the node itself, where their packets leave
    model.py      the four hooks
    invariants.py what must hold over any sequence
    generate.py   Scapy packets, truncation, mutation
"""
