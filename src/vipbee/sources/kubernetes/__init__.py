# SPDX-License-Identifier: Apache-2.0
"""A Kubernetes API server as a source of Services, EndpointSlices and the own Node.

    kubeconfig, access ─► credentials, tls ─► client      how to reach it, as whom
    wire ─► listing ─► watching                           one kind, for ever
    mirror, first_slices                                  one kind, as SourceEvents
    replicas                                              where else the server answers
    source                                                all kinds together

Must not write to the API server (kube_events does, through `client`), look into Secrets or
decide what a change means. resourceVersions are opaque: they are passed on, never compared
or counted (F16).
"""

from vipbee.sources.kubernetes.access import Access, in_cluster
from vipbee.sources.kubernetes.kubeconfig import load_access
from vipbee.sources.kubernetes.mirror import MassDeleteGuard
from vipbee.sources.kubernetes.source import KubernetesSource

__all__ = ["Access", "KubernetesSource", "MassDeleteGuard", "in_cluster", "load_access"]
