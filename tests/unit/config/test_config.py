# SPDX-License-Identifier: Apache-2.0
"""Configuration: defaults, file, flags; what is refused. kube-proxy's: test_kubeproxy.py."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.support.configs import STATE, cidrs, config_of
from vipbee.config import AgentConfig, BindAddress, MapSizes, NodePortAddresses, load_config
from vipbee.core.port_ranges import PortRange
from vipbee.errors import UsageError

# ---- defaults and flags ---------------------------------------------------------------


def test_defaults_are_those_of_the_interface() -> None:
    assert config_of() == AgentConfig(
        kubeconfig=None,
        state_file=Path("/s"),
        node_name=None,
        cgroup_root=None,
        bpf_root=Path("/sys/fs/bpf/vipbee"),
        devices=(),
        pod_devices=(),
        node_port_addresses=NodePortAddresses(()),
        healthz_bind=BindAddress("0.0.0.0", 10256),
        metrics_bind=BindAddress("127.0.0.1", 10249),
        socket_lb=True,
        bind_protection=False,
        audit_interval_s=60.0,
        log_format="text",
        log_level="info",
    )


def test_flags_that_were_not_given_leave_the_defaults() -> None:
    names = [field.name for field in dataclasses.fields(AgentConfig)]
    assert "log_level" in names

    assert config_of(kubeconfig=None, log_level=None, socket_lb=None) == config_of()


@pytest.mark.parametrize(
    ("flag", "value", "field", "expected"),
    [
        ("hostname_override", " Node-A ", "node_name", "node-a"),
        ("node-name", "n1.example", "node_name", "n1.example"),
        ("cgroup_root", "/cg", "cgroup_root", Path("/cg")),
        ("bpf_root", Path("/sys/fs/bpf/x"), "bpf_root", Path("/sys/fs/bpf/x")),
        ("devices", "eth0, ens+", "devices", ("eth0", "ens+")),
        ("pod_devices", "veth+,cali+", "pod_devices", ("veth+", "cali+")),
        ("pod_devices", "", "pod_devices", ()),
        ("nodeport_addresses", "primary", "node_port_addresses", NodePortAddresses()),
        (
            "nodeport_addresses",
            "10.0.0.0/8",
            "node_port_addresses",
            NodePortAddresses(cidrs("10.0.0.0/8")),
        ),
        ("healthz_bind_address", "", "healthz_bind", None),
        ("healthz_bind_address", "10.0.0.1", "healthz_bind", BindAddress("10.0.0.1", 10256)),
        ("healthz_bind_address", ":80", "healthz_bind", BindAddress("0.0.0.0", 80)),
        ("metrics_bind_address", "[::1]:9", "metrics_bind", BindAddress("::1", 9)),
        ("metrics_bind_address", "[::]", "metrics_bind", BindAddress("::", 10249)),
        ("metrics_bind_address", "0:0::1", "metrics_bind", BindAddress("::1", 10249)),
        (
            "master",
            "https://10.0.0.1:6443/, http://[fd00::1]:80/path",
            "api_servers",
            ("https://10.0.0.1:6443", "http://[fd00::1]:80/path"),
        ),
        ("socket_lb", False, "socket_lb", False),
        ("packet_lb", False, "packet_lb", False),
        ("nodeport_range", "20000-29999", "node_port_range", PortRange(20000, 29999)),
        ("service-node-port-range", "1,1024", "node_port_range", PortRange(1, 1024)),
        ("enable-auto-protect-node-port-range", False, "reserve_node_ports", False),
        ("snat_port_range", [40000, 50000], "snat_port_range", PortRange(40000, 50000)),
        ("bpf_lb_external_clusterip", True, "cluster_ip_from_outside", True),
        ("masquerade_all", True, "masquerade_all", True),
        ("conntrack-tcp-timeout-established", "24h0m0s", "tcp_established_s", 86400),
        ("conntrack_tcp_timeout_transitory", "2m30s", "tcp_transitory_s", 150),
        ("conntrack_tcp_timeout_reset", 5, "tcp_reset_s", 5),
        ("conntrack-udp-timeout-stream", "180s", "udp_s", 180),
        ("bind_protection", True, "bind_protection", True),
        ("audit_interval", "5m", "audit_interval_s", 300.0),
        ("log_format", "json", "log_format", "json"),
        ("log_level", "WARN", "log_level", "warning"),
    ],
)
def test_a_flag_is_read(flag: str, value: Any, field: str, expected: object) -> None:
    assert getattr(config_of(**{flag: value}), field) == expected


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("hostname_override", "", "--hostname-override wants a text"),
        ("hostname_override", "no_de", "--hostname-override wants a node name"),
        ("node_name", "n" * 254, "--node-name wants a node name"),
        ("bpf_root", "pins", "--bpf-root wants an absolute path, not 'pins'"),
        ("devices", "eth0+x", "--devices wants device names like eth0 or eth\\+, not 'eth0\\+x'"),
        ("devices", "a" * 16, "--devices wants device names"),
        ("cluster_cidr", "10.0.0.0", "--cluster-cidr wants CIDRs"),
        ("cluster_cidr", "10.0.0.0/33", "--cluster-cidr wants CIDRs"),
        ("cluster_cidr", "１０.0.0.0/8", "--cluster-cidr wants CIDRs"),
        ("nodeport_addresses", "primary,10.0.0.0/8", "--nodeport-addresses wants either"),
        ("nodeport_addresses", "all", "--nodeport-addresses wants CIDRs"),
        ("healthz_bind_address", "host:80", "--healthz-bind-address wants IP:port"),
        ("healthz_bind_address", "1.2.3.4:0", "--healthz-bind-address wants IP:port"),
        ("healthz_bind_address", "1.2.3.4:65536", "--healthz-bind-address wants IP:port"),
        ("healthz_bind_address", "1.2.3.4:８０", "--healthz-bind-address wants IP:port"),
        ("healthz_bind_address", "1.2.3.4:", "--healthz-bind-address wants IP:port"),
        ("healthz_bind_address", "[1.2.3.4]:80", "--healthz-bind-address wants IP:port"),
        ("healthz_bind_address", "[::1", "--healthz-bind-address wants IP:port"),
        ("healthz_bind_address", "[::1]80", "--healthz-bind-address wants IP:port"),
        ("master", "10.0.0.1:6443", "--master wants addresses like https"),
        ("master", "https://user@host", "--master wants addresses like https"),
        ("socket_lb", "yes", "--socket-lb wants true or false"),
        ("audit_interval", "0", "--audit-interval wants a duration"),
        ("audit_interval", "1d", "--audit-interval wants a duration"),
        ("nodeport_range", "30000", "--nodeport-range wants a range of ports like"),
        ("nodeport_range", "32767-30000", "--nodeport-range wants a range of ports like"),
        ("nodeport_range", "1-65536", "--nodeport-range wants a range of ports like"),
        ("nodeport_range", "500-65000", "nodeport-range 500-65000 leaves fewer than 1024 ports"),
        ("snat_port_range", "30000-40000", "snat-port-range 30000-40000 overlaps nodeport-range"),
        ("snat_port_range", "40000-40100", "snat-port-range 40000-40100 wants at least 1024"),
        ("snat_port_range", "1000-20000", "snat-port-range 1000-20000 wants at least 1024"),
        ("conntrack_tcp_timeout_reset", "0s", "--conntrack-tcp-timeout-reset wants a duration"),
        ("conntrack_tcp_timeout_established", "1.5s", ".* wants whole seconds, at most 31 days"),
        ("conntrack_udp_timeout_stream", "745h", ".* wants whole seconds, at most 31 days"),
        ("conntrack_udp_timeout_stream", "2m 5s", ".* wants a duration of at least 1s"),
        ("log_format", "xml", "--log-format wants text or json"),
        ("log_level", "loud", "--log-level wants debug, info"),
        ("colour", "red", "--colour is no option"),
    ],
)
def test_a_bad_flag_is_named_with_what_it_wants(flag: str, value: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        config_of(**{flag: value})


def test_settings_of_the_packet_layer_are_members_of_struct_config() -> None:
    """R42, R56; the names are checked against the object when it is loaded."""
    config = config_of(
        nodeport_range="20000-39999",
        cluster_ip_from_outside=True,
        masquerade_all=True,
        conntrack_tcp_timeout_established="3h",
    )

    assert config.packet_constants == {
        "lifetime_established_s": 10800,
        "lifetime_transitory_s": 240,
        "lifetime_reset_s": 10,
        "lifetime_udp_s": 120,
        "node_port_first": 20000,
        "node_port_last": 39999,
        "snat_port_first": 40000,
        "snat_port_last": 65535,
        "cluster_ip_from_outside": 1,
        "masquerade_all": 1,
    }


def test_masquerading_without_packets_is_refused() -> None:
    """R56: a socket hook cannot do it, and the two were asked for by one operator."""
    with pytest.raises(UsageError, match="masquerade-all wants the packet layer"):
        config_of(masquerade_all=True, packet_lb=False)


def test_no_source_is_refused() -> None:
    with pytest.raises(UsageError, match="say where Services come from: --state-file"):
        load_config(None, {})


def test_two_sources_are_refused() -> None:
    with pytest.raises(UsageError, match="either --state-file or --kubeconfig, not both"):
        load_config(None, {"state_file": "/s", "kubeconfig": "/k"})


def test_two_names_for_the_node_are_refused() -> None:
    with pytest.raises(UsageError, match="say the same: give one"):
        config_of(hostname_override="a", node_name="b")


# ---- our own file -----------------------------------------------------------------------


def test_a_file_in_kebab_or_camel_case_is_read(config_file: Any) -> None:
    path = config_file(
        "state-file: /etc/s\n"
        "nodeName: node-a\n"
        "devices: [eth+, ens3]\n"
        "nodePortAddresses: [10.0.0.0/8]\n"
        'metrics-bind-address: ""\n'
        "bind-protection: true\n"
        "audit-interval: 90\n"
        "map-sizes: {backends: 1024, udp_flows: 2048}\n"
        "log-level:\n"
    )

    config, warnings = load_config(path, {})

    assert warnings == ()
    assert config == AgentConfig(
        state_file=Path("/etc/s"),
        node_name="node-a",
        devices=("eth+", "ens3"),
        node_port_addresses=NodePortAddresses(cidrs("10.0.0.0/8")),
        metrics_bind=None,
        bind_protection=True,
        audit_interval_s=90.0,
        map_size_overrides={"backends": 1024, "udp_flows": 2048},
    )
    assert config.map_sizes(0) == MapSizes(backends=1024, udp_flows=2048)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("false", {"hold_s": 0}),
        ("true", {}),
        ("{share: 0.9, minimum: 5, hold: 10m}", {"share": 0.9, "minimum": 5, "hold_s": 600}),
    ],
)
def test_mass_delete_guard_is_set_in_the_file(
    config_file: Any, text: str, expected: dict[str, float]
) -> None:
    """F17: configurable, and switchable."""
    config, _ = load_config(config_file(f"mass-delete-guard: {text}\n"), STATE)

    assert config.mass_delete_guard == expected


def test_flags_override_the_file(config_file: Any) -> None:
    path = config_file("state-file: /file\nlog-level: debug\nsocket-lb: true\n")

    config, _ = load_config(path, {"state_file": "/flag", "socket_lb": False})

    assert (config.state_file, config.log_level, config.socket_lb) == (
        Path("/flag"),
        "debug",
        False,
    )


def test_a_flag_for_another_source_wins_with_a_warning(config_file: Any) -> None:
    path = config_file("kubeconfig: /k\n")

    config, warnings = load_config(path, STATE)

    assert (config.state_file, config.kubeconfig) == (Path("/s"), None)
    assert warnings == (f"{path}: kubeconfig is ignored: the command line names another source",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("state-file: [", "config.yaml line 1: did not find"),
        ("log-level: info\nlog-level: debug\n", "line 2: key 'log-level' is given twice"),
        ("- a\n", "want a mapping of options"),
        ("kolour: red\n", "config.yaml: kolour is no option of the agent"),
        ("socket-lb: yes\n", "config.yaml: socket-lb wants true or false, not 'yes'"),
        ("state-file: 5\n", "config.yaml: state-file wants a text, not 5"),
        ("devices: [1]\n", "config.yaml: devices wants a list of texts"),
        ("map-sizes: {backend: 5}\n", "config.yaml: map-sizes knows no map 'backend'"),
        ("map-sizes: {backends: 0}\n", "map-sizes: backends wants 16 to"),
        ("map-sizes: {backends: true}\n", "map-sizes: backends wants 16 to"),
        ("audit-interval: true\n", "audit-interval wants a duration"),
        ("mass-delete-guard: 5m\n", "mass-delete-guard wants false, or like"),
        ("mass-delete-guard: {share: 2}\n", "mass-delete-guard wants share"),
        ("mass-delete-guard: {minimum: true}\n", "mass-delete-guard wants share"),
        ("mass-delete-guard: {hold: 0}\n", "mass-delete-guard: hold wants a duration"),
        ("stateFile: /a\nstate-file: /b\n", "say the same: give one"),
    ],
)
def test_a_bad_file_is_refused_with_its_name(config_file: Any, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_config(config_file(text), STATE)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file or directory"):
        load_config(tmp_path / "none.yaml", STATE)


def test_an_empty_file_changes_nothing(config_file: Any) -> None:
    assert load_config(config_file("# later\n"), STATE) == (config_of(), ())
