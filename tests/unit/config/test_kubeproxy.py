# SPDX-License-Identifier: Apache-2.0
"""A KubeProxyConfiguration as --config: what is taken over, and what is said of the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import KUBE_PROXY, STATE, cidrs, config_of
from vipbee.address import parse_address
from vipbee.config import AgentConfig, BindAddress, NodePortAddresses, load_config
from vipbee.errors import UsageError


def test_fields_of_a_kube_proxy_configuration_are_taken_over(config_file: Any) -> None:
    path = config_file(
        KUBE_PROXY + "hostnameOverride: node-a\n"
        "nodePortAddresses: [192.0.2.0/24]\n"
        "healthzBindAddress: 0.0.0.0:1\n"
        'metricsBindAddress: "[::1]:2"\n'
        "clientConnection: {kubeconfig: /var/lib/kube-proxy/kubeconfig.conf}\n"
        "logging: {format: json}\n"
        "conntrack: {tcpEstablishedTimeout: 24h0m0s, udpStreamTimeout: 3m0s}\n"
    )

    config, warnings = load_config(path, {})

    assert warnings == ()
    assert config == AgentConfig(
        kubeconfig=Path("/var/lib/kube-proxy/kubeconfig.conf"),
        node_name="node-a",
        node_port_addresses=NodePortAddresses(cidrs("192.0.2.0/24")),
        healthz_bind=BindAddress("0.0.0.0", 1),
        metrics_bind=BindAddress("::1", 2),
        log_format="json",
        tcp_established_s=86400,
        udp_s=180,
    )


def test_what_kubeadm_writes_gives_no_warning_for_what_is_not_set(config_file: Any) -> None:
    """And empty bind addresses mean the default there, not "disabled"."""
    path = config_file(
        KUBE_PROXY + 'bindAddress: ""\nbindAddressHardFail: false\n'
        'clientConnection: {acceptContentTypes: "", burst: 0, kubeconfig: /k, qps: 0}\n'
        'clusterCIDR: ""\nconfigSyncPeriod: 0s\n'
        "conntrack: {maxPerCore: null, min: null, tcpCloseWaitTimeout: null}\n"
        'detectLocal: {bridgeInterface: ""}\ndetectLocalMode: ""\nenableProfiling: false\n'
        'healthzBindAddress: ""\nhostnameOverride: ""\n'
        "iptables: {localhostNodePorts: null, masqueradeAll: false, syncPeriod: 0s}\n"
        'ipvs: {excludeCIDRs: null, scheduler: ""}\n'
        "logging: {flushFrequency: 0, options: {json: {infoBufferSize: '0'}}, verbosity: 0}\n"
        'metricsBindAddress: ""\nmode: ""\nnodePortAddresses: null\noomScoreAdj: null\n'
        'portRange: ""\nshowHiddenMetricsForVersion: ""\nwinkernel: {enableDSR: false}\n'
    )

    config, warnings = load_config(path, {})

    assert config == AgentConfig(kubeconfig=Path("/k"))
    assert [warning.partition(": ")[2].split()[0] for warning in warnings] == [
        "logging.options",
        "nodePortAddresses",
    ]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("mode: ipvs\n", "mode"),
        ("oomScoreAdj: -999\n", "oomScoreAdj"),
        ("featureGates: {A: true, B: false}\n", "featureGates"),
        ("featureGates: {AllowServiceExternalIPs: true, A: true}\n", "featureGates"),
        ("iptables: {localhostNodePorts: false}\n", "iptables.localhostNodePorts"),
        ("conntrack: {maxPerCore: 32768}\n", "conntrack.maxPerCore"),
        ("conntrack: {tcpCloseWaitTimeout: 1h0m0s}\n", "conntrack.tcpCloseWaitTimeout"),
        ("conntrack: {udpTimeout: 10s}\n", "conntrack.udpTimeout"),
        ("conntrack: {tcpBeLiberal: true}\n", "conntrack.tcpBeLiberal"),
        ("clientConnection: {qps: 50}\n", "clientConnection.qps"),
        ("logging: {verbosity: 4}\n", "logging.verbosity"),
        ("nonsense: 1\n", "nonsense"),
        ("nonsense: {deep: 1}\n", "nonsense"),
    ],
)
def test_a_field_without_meaning_is_named_in_one_warning(
    config_file: Any, text: str, field: str
) -> None:
    path = config_file(KUBE_PROXY + "nodePortAddresses: [primary]\n" + text)

    _, warnings = load_config(path, STATE)

    (warning,) = warnings
    assert warning.startswith(f"{path}: {field} ")


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_masquerading_of_either_mode_means_our_option(config_file: Any, mode: str) -> None:
    """R56."""
    head = KUBE_PROXY + "nodePortAddresses: [primary]\n"
    wanted = config_file(head + f"{mode}: {{masqueradeAll: true}}\n")

    config, warnings = load_config(wanted, STATE)
    overruled, _ = load_config(wanted, {**STATE, "masquerade-all": False})

    assert (config.masquerade_all, overruled.masquerade_all) == (True, False)
    assert warnings == ()


@pytest.mark.parametrize(("gate", "cidrs"), [("true", None), ("false", ())])
def test_gate_of_external_ips_means_our_option(
    config_file: Any, gate: str, cidrs: tuple[Any, ...] | None
) -> None:
    """KEP-5707."""
    text = f"nodePortAddresses: [primary]\nfeatureGates: {{AllowServiceExternalIPs: {gate}}}\n"

    config, warnings = load_config(config_file(KUBE_PROXY + text), STATE)

    assert config.allowed.external_ips.cidrs == cidrs
    assert warnings == ()


@pytest.mark.parametrize(
    ("address", "bind", "healthz", "metrics"),
    [
        ("0.0.0.0", None, "0.0.0.0:10256", "127.0.0.1:10249"),
        ("192.0.2.7", "192.0.2.7", "0.0.0.0:10256", "127.0.0.1:10249"),
        ('"::"', None, "[::]:10256", "[::1]:10249"),
        ("2001:db8::7", "2001:db8::7", "[::]:10256", "[::1]:10249"),
    ],
)
def test_bind_address_is_the_primary_one_and_says_the_family_of_the_listeners(
    config_file: Any, address: str, bind: str | None, healthz: str, metrics: str
) -> None:
    """R90; as kube-proxy's defaults.go."""
    text = f"nodePortAddresses: [primary]\nbindAddress: {address}\n"

    config, warnings = load_config(config_file(KUBE_PROXY + text), STATE)

    assert config.bind_address == (parse_address(bind) if bind else None)
    assert (str(config.healthz_bind), str(config.metrics_bind)) == (healthz, metrics)
    assert warnings == ()


def test_modes_that_name_devices_are_taken_over(config_file: Any) -> None:
    """R57."""
    head = KUBE_PROXY + "nodePortAddresses: [primary]\n"
    prefix = "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: veth}\n"
    bridge = "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: cni0}\n"

    by_prefix, no_warnings = load_config(config_file(head + prefix), STATE)
    by_bridge, none_either = load_config(config_file(head + bridge), STATE)

    assert (by_prefix.pod_devices, by_prefix.pod_bridge) == (("veth+",), "")
    assert (by_bridge.pod_devices, by_bridge.pod_bridge) == ((), "cni0")
    assert no_warnings == none_either == ()


def test_cluster_cidr_is_told_to_change_nothing() -> None:
    """R57: once, also beside the mode that would read it."""
    alone, (warning,) = load_config(None, {**STATE, "cluster-cidr": "10.244.0.0/16,fd00::/8"})
    options = {**STATE, "cluster-cidr": "10.244.1.2/16", "detect-local-mode": "ClusterCIDR"}
    _, (both,) = load_config(None, options)

    assert alone == config_of()
    assert warning.startswith("cluster-cidr has no effect: ")
    assert both.startswith("detect-local-mode ClusterCIDR and cluster-cidr have no effect: ")


@pytest.mark.parametrize("mode", ["ClusterCIDR", "NodeCIDR"])
def test_modes_by_address_are_told_to_change_nothing(mode: str) -> None:
    _, (warning,) = load_config(None, {**STATE, "detect-local-mode": mode})

    assert warning.startswith(f"detect-local-mode {mode} has no effect: ")


@pytest.mark.parametrize(
    ("option", "mode"),
    [
        ("pod-bridge-interface", "BridgeInterface"),
        ("pod-interface-name-prefix", "InterfaceNamePrefix"),
    ],
)
def test_device_of_another_mode_is_named(option: str, mode: str) -> None:
    _, (warning,) = load_config(None, {**STATE, option: "cni0"})

    assert warning == f"{option} has no effect without detect-local-mode {mode}"
    with pytest.raises(UsageError, match=f"{mode} wants {option} as well"):
        load_config(None, {**STATE, "detect-local-mode": mode})


def test_external_ips_can_be_switched_off_or_kept_to_networks() -> None:
    def allowed(value: Any) -> Any:
        return load_config(None, {**STATE, "external-ips": value})[0].allowed.external_ips.cidrs

    assert allowed(True) is None
    assert allowed(False) == ()
    assert allowed(["192.0.2.0/24"]) == cidrs("192.0.2.0/24")
    with pytest.raises(UsageError, match="external-ips wants CIDRs"):
        allowed("some")


def test_another_version_of_kube_proxys_configuration_is_refused(config_file: Any) -> None:
    text = KUBE_PROXY.replace("v1alpha1", "v1")

    with pytest.raises(UsageError, match=r"want kind KubeProxyConfiguration of apiVersion"):
        load_config(config_file(text), STATE)
