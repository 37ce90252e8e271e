# SPDX-License-Identifier: Apache-2.0
"""What should be true on this node: objects in, map entries out, nothing else.

    store ──► select ──► claims ──► render ──► plan
    objects   ServicePorts  who owns  entries   ordered operations
              (endpoints,   a frontend
               nodes, policy)

Everything here is a function of its arguments. Core must not do I/O, must not know
asyncio, threads, the clock, the environment, logging or randomness, and must not
import anything of vipbee but address, abi, model and errors. What it has to tell
people it returns as `model.Problem`. So every rule of service semantics can be
tested without a kernel, and an audit can recompute the whole desired state.
"""
