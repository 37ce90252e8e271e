# SPDX-License-Identifier: Apache-2.0
"""Further addresses of the API server, from the endpoints of Service default/kubernetes.

Used when the configured address fails: a kubeconfig often names only one of several, or
a ClusterIP that nobody but us serves (F3). Whoever answers there must prove with its
certificate to be the configured server, so nothing is trusted that was not before.
"""

from __future__ import annotations

from vipbee.model import ApiObject, EndpointSlice
from vipbee.sources.events import ObjectName
from vipbee.sources.kubernetes.listing import Listing
from vipbee.sources.kubernetes.watching import Step
from vipbee.sources.kubernetes.wire import Batch

_NAMESPACE, _SERVICE = "default", "kubernetes"
_SERVICE_NAME_LABEL = "kubernetes.io/service-name"


class Replicas:
    """Follows the steps of the EndpointSlices."""

    def __init__(self) -> None:
        self._of_slice: dict[ObjectName, tuple[str, ...]] = {}

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(url for urls in self._of_slice.values() for url in urls))

    def take(self, step: Step) -> bool:
        """Note a step; whether `urls` changed."""
        before = self.urls
        match step:
            case Listing():
                self._of_slice.clear()
                self._note_all(dict(step.objects))
            case Batch():
                self._note_all(step.objects)
        return self.urls != before

    def _note_all(self, objects: dict[ObjectName, ApiObject | None]) -> None:
        for name, item in objects.items():
            if name.namespace != _NAMESPACE:
                continue
            self._of_slice.pop(name, None)
            labels = item.metadata.labels if item is not None else None
            if labels and labels.get(_SERVICE_NAME_LABEL) == _SERVICE:
                assert isinstance(item, EndpointSlice)
                self._of_slice[name] = tuple(_urls(item))


def _urls(item: EndpointSlice) -> list[str]:
    if item.addressType not in ("IPv4", "IPv6") or not item.ports or not item.ports[0].port:
        return []
    port = item.ports[0].port
    return [
        f"https://[{address}]:{port}" if ":" in address else f"https://{address}:{port}"
        for endpoint in item.endpoints or ()
        if endpoint.conditions is None or endpoint.conditions.ready is not False
        for address in endpoint.addresses[:1]
    ]
