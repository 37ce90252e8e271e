# SPDX-License-Identifier: Apache-2.0
"""Real clusters of network namespaces on this machine, for the demo, tests and benchmarks.

    topology ──► blueprint ──► wiring ──► namespaces ─┐
    (the file)   (addresses)   (commands) (kernel)    ├──► cluster.Lab
                     └──► servers, endpoints, agent ──┘

Everything of a lab is named after it and lies outside the machine's own network
namespace; `teardown` removes it by name, also after a run that was killed.
"""

from vipbee.lab.agent import Agent
from vipbee.lab.cluster import Lab
from vipbee.lab.place import Place
from vipbee.lab.topology import Topology, load_topology, parse_topology

__all__ = ["Agent", "Lab", "Place", "Topology", "load_topology", "parse_topology"]
