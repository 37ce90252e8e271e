# SPDX-License-Identifier: Apache-2.0
"""What is read from the API server: kube-proxy's selection (R2, R3, R9)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vipbee.model import ApiObject, EndpointSlice, Node, Service, ServiceCIDR

NOT_PROXIED_ELSEWHERE = "!service.kubernetes.io/service-proxy-name"
NOT_HEADLESS = "!service.kubernetes.io/headless"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One kind, and which of its objects. `selection` goes into every query."""

    kind: str
    plural: str  # as in RBAC
    path: str
    type: type[ApiObject]
    selection: Mapping[str, str]
    is_required: bool = True  # nothing is programmed without it (R8)
    is_served: bool = True  # False: an API server need not have it, and nothing hangs on it
    is_guarded: bool = True  # a list that lost most of them is not believed at once (F17)

    @property
    def source(self) -> str:
        """Name of this kind as a source, for people."""
        return f"API server: {self.plural}"


SERVICES = Resource(
    kind="Service",
    plural="services",
    path="/api/v1/services",
    type=Service,
    # Each label counts on one kind only, as in kube-proxy since 1.31 (R4).
    selection={"labelSelector": NOT_PROXIED_ELSEWHERE},
)
ENDPOINT_SLICES = Resource(
    kind="EndpointSlice",
    plural="endpointslices",
    path="/apis/discovery.k8s.io/v1/endpointslices",
    type=EndpointSlice,
    selection={"labelSelector": NOT_HEADLESS},
)

SERVICE_CIDRS = Resource(
    kind="ServiceCIDR",
    plural="servicecidrs",
    path="/apis/networking.k8s.io/v1/servicecidrs",  # since 1.33
    type=ServiceCIDR,
    selection={},
    is_required=False,
    is_served=False,
    is_guarded=False,
)


def own_node(name: str) -> Resource:
    """The Node object `name`, as a list of at most one."""
    return Resource(
        kind="Node",
        plural="nodes",
        path="/api/v1/nodes",
        type=Node,
        selection={"fieldSelector": f"metadata.name={name}"},
        is_required=False,
        is_guarded=False,
    )
