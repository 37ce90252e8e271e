# SPDX-License-Identifier: Apache-2.0
"""A KubeProxyConfiguration (kubeproxy.config.k8s.io/v1alpha1) → our own settings.

Nothing that is set is dropped silently: what has no meaning here is named in one
warning with the reason. What kube-proxy itself reads as "not set" (null, "", 0, 0s,
[], {}, and false unless true is the default) is not worth a line: `kubeadm` writes
out all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vipbee.errors import UsageError

KIND = "KubeProxyConfiguration"
API_VERSION = "kubeproxy.config.k8s.io/v1alpha1"

_MAPPED = {
    "hostnameOverride": "hostname-override",
    "bindAddress": "bind-address",
    "detectLocalMode": "detect-local-mode",
    "detectLocal.bridgeInterface": "pod-bridge-interface",
    "detectLocal.interfaceNamePrefix": "pod-interface-name-prefix",
    "clusterCIDR": "cluster-cidr",
    "nodePortAddresses": "nodeport-addresses",
    "healthzBindAddress": "healthz-bind-address",
    "metricsBindAddress": "metrics-bind-address",
    "clientConnection.kubeconfig": "kubeconfig",
    "iptables.masqueradeAll": "masquerade-all",  # there is one mode: either says so
    "nftables.masqueradeAll": "masquerade-all",
    "logging.format": "log-format",
    "conntrack.tcpEstablishedTimeout": "conntrack-tcp-timeout-established",
    "conntrack.udpStreamTimeout": "conntrack-udp-timeout-stream",
}

_NO_RULES = "no iptables, ipvs or nftables rules are written"
_OWN_SIZE = "the table of connections is sized by `map-sizes` and the machine's memory"
_OWN_CLIENT = "the connection to the API server tunes itself"

# By field or by the group it is in, the longest match counts.
_MEANINGLESS = {
    "bindAddressHardFail": "a listener that cannot be opened is always reported",
    "clientConnection": _OWN_CLIENT,
    "configSyncPeriod": _OWN_CLIENT,
    "conntrack": "the kernel's connection tracking is not used",
    "conntrack.maxPerCore": _OWN_SIZE,
    "conntrack.min": _OWN_SIZE,
    "conntrack.tcpBeLiberal": "segments are never checked against windows",
    "conntrack.tcpCloseWaitTimeout": "half-closed connections live as long as established ones",
    "conntrack.udpTimeout": "UDP flows live for udpStreamTimeout, answered or not",
    "detectLocal": "there is no such field",
    "enableProfiling": "there is no profiling endpoint",
    "featureGates": "of feature gates there is only AllowServiceExternalIPs",
    "iptables": _NO_RULES,
    "iptables.localhostNodePorts": "programs on the node reach NodePorts on loopback always",
    "ipvs": _NO_RULES,
    "logging": "use --log-level",
    "mode": "there is one mode, eBPF",
    "nftables": _NO_RULES,
    "oomScoreAdj": "set it in the unit or pod that starts vipbee",
    "portRange": "NodePorts are not opened as sockets",
    "showHiddenMetricsForVersion": "there are no hidden metrics",
    "udpIdleTimeout": "UDP flows live for conntrack.udpStreamTimeout",
    "winkernel": "this is not Windows",
    "windowsRunAsService": "this is not Windows",
}
_EXTERNAL_IPS_GATE = "AllowServiceExternalIPs"  # KEP-5707, on by default
_TRUE_BY_DEFAULT = frozenset(("iptables.localhostNodePorts",))


def is_kube_proxy(document: Mapping[str, Any]) -> bool:
    """Whether `document` says it is one, by kind or by API group."""
    version = document.get("apiVersion")
    group = version.partition("/")[0] if isinstance(version, str) else ""
    return document.get("kind") == KIND or group == API_VERSION.partition("/")[0]


def translate(document: Mapping[str, Any], source: str) -> tuple[dict[str, Any], list[str]]:
    """Return settings by our option names, and one warning for each field without meaning."""
    if (document.get("kind"), document.get("apiVersion")) != (KIND, API_VERSION):
        raise UsageError(f"{source}: want kind {KIND} of apiVersion {API_VERSION}")
    settings: dict[str, Any] = {}
    warnings: list[str] = []
    for name, value in _leaves(document):
        if name in ("kind", "apiVersion") or _is_unset(name, value):
            continue
        if name in _MAPPED:
            settings[_MAPPED[name]] = value
        elif name == f"featureGates.{_EXTERNAL_IPS_GATE}":
            settings["external-ips"] = value
        elif (reason := _reason(name)) is not None:
            warnings.append(f"{source}: {name} has no effect: {reason}")
        else:
            warnings.append(f"{source}: {name} is no field of {KIND} and has no effect")
    if ":" in str(settings.get("bind-address", "")):  # listeners follow its family
        settings.setdefault("healthz-bind-address", "[::]")
        settings.setdefault("metrics-bind-address", "[::1]")
    if "nodeport-addresses" not in settings:
        warnings.append(
            f"{source}: nodePortAddresses is not set: NodePorts are served on the node's primary"
            " addresses only, as kube-proxy does with nftables but not with iptables"
        )
    return settings, warnings


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Fields with dotted names; only groups we know are gone into, and those one level deep."""
    for key, value in document.items():
        name = f"{prefix}{key}"
        if not prefix and isinstance(value, Mapping) and key in _MEANINGLESS and value:
            if key == "featureGates":
                yield from _gates(name, value)
            else:
                yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _gates(name: str, gates: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The one that means something, and all others as one field."""
    others = {gate: value for gate, value in gates.items() if gate != _EXTERNAL_IPS_GATE}
    if gates.keys() != others.keys():
        yield f"{name}.{_EXTERNAL_IPS_GATE}", gates[_EXTERNAL_IPS_GATE]
    if others:
        yield name, others


def _is_unset(name: str, value: Any) -> bool:
    if value is False:
        return name not in _TRUE_BY_DEFAULT and not name.endswith(_EXTERNAL_IPS_GATE)
    if name in _TRUE_BY_DEFAULT and value is True:
        return True  # asks for what happens anyway
    return value is None or value in ("", 0, "0s", [], {})


def _reason(name: str) -> str | None:
    group = name.partition(".")[0]
    return _MEANINGLESS.get(name, _MEANINGLESS.get(group))
