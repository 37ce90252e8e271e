# SPDX-License-Identifier: Apache-2.0
"""What the product's speed is, as ratios within one run.

compare   side by side with kube-proxy: `make bench`, `make bench-quick`
sockets   the socket layer: `make bench-sockets`
packets   the packet layer: `make bench-packets`
scale     the agent against an API server: `make bench-scale`

Everything runs in network namespaces and cgroups made here and removed again.
"""
