# SPDX-License-Identifier: Apache-2.0
"""What a Service's annotations ask for: `vipbee.io/NAME`, or Cilium's `service.cilium.io/NAME`.

    type               ClusterIP | NodePort | LoadBalancer: only frontends of this type
    node               only on nodes with the label of the same name and value
    node-selector      only on nodes whose labels match this selector
    src-ranges-policy  allow | deny: what loadBalancerSourceRanges says
    lb-algorithm       random; maglev is not there
    forwarding-mode    snat; dsr is not there

If both names are given ours counts. A value that cannot be obeyed is a warning, never a
Service less: it was written for another proxy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

from vipbee.abi import FrontendKind
from vipbee.core.label_selector import matches
from vipbee.core.nodes import NodeView
from vipbee.model import Service

T = TypeVar("T")

_PREFIXES = ("vipbee.io/", "service.cilium.io/")
_KINDS = {
    "ClusterIP": int(FrontendKind.CLUSTER_IP),
    "NodePort": int(FrontendKind.NODE_PORT),
    "LoadBalancer": int(FrontendKind.LOAD_BALANCER),
}
# What there is, then what Cilium has besides, with what happens instead.
_ALGORITHM = {"random": "", "maglev": "a backend is chosen at random"}
_FORWARDING = {"snat": "", "dsr": "replies go back through this node"}


class Wishes(NamedTuple):
    only_kind: int | None = None  # FrontendKind
    is_here: bool = True  # False: this node is not to serve it
    denies_source_ranges: bool = False


_NONE = Wishes()


class _Given(NamedTuple):
    name: str  # as it is written there
    value: str


def read_annotations(service: Service, node: NodeView, warnings: list[str]) -> Wishes:
    """Return what is asked for; what cannot be obeyed goes to `warnings`."""
    annotations = service.metadata.annotations
    if not annotations:
        return _NONE
    for name, known in (("lb-algorithm", _ALGORITHM), ("forwarding-mode", _FORWARDING)):
        instead = _choose(annotations, name, known, warnings)
        if instead:
            given = _find(annotations, name)
            warnings.append(f"annotation {given.name}: {given.value} is not available: {instead}")
    return Wishes(
        only_kind=_choose(annotations, "type", _KINDS, warnings),
        is_here=_is_here(annotations, node, warnings),
        denies_source_ranges=bool(
            _choose(annotations, "src-ranges-policy", {"allow": False, "deny": True}, warnings)
        ),
    )


def _find(annotations: Mapping[str, str], name: str) -> _Given:
    """The annotation of that name, ours first; value "" if there is none."""
    for prefix in _PREFIXES:
        if value := (annotations.get(prefix + name) or "").strip():
            return _Given(prefix + name, value)
    return _Given(name, "")


def _choose(
    annotations: Mapping[str, str], name: str, known: Mapping[str, T], warnings: list[str]
) -> T | None:
    given = _find(annotations, name)
    for word, meaning in known.items():
        if given.value.lower() == word.lower():
            return meaning
    if given.value:
        words: Sequence[str] = list(known)
        warnings.append(
            f"annotation {given.name}: {given.value!r} is not {' or '.join(words)}: it is ignored"
        )
    return None


def _is_here(annotations: Mapping[str, str], node: NodeView, warnings: list[str]) -> bool:
    wanted, selector = _find(annotations, "node"), _find(annotations, "node-selector")
    if not wanted.value and not selector.value:
        return True
    if node.labels is None:
        name = wanted.name if wanted.value else selector.name
        warnings.append(
            f"annotation {name}: no Node object of this node is known, so it is not served here"
        )
        return False
    labels = dict(node.labels)
    if wanted.value and wanted.value not in [labels.get(f"{prefix}node") for prefix in _PREFIXES]:
        return False
    try:
        return matches(selector.value, labels)
    except ValueError as error:
        warnings.append(f"annotation {selector.name}: {error}: it is ignored")
        return True
