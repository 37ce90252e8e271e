# SPDX-License-Identifier: Apache-2.0
"""The options of `vipbee agent`, and reading them from a command line.

By argparse, unlike all other commands: typer, with the pydantic it brings, takes 0.1 s of every
start and 15 MiB of a process that parses what others send, and of its privileged helper.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from vipbee.errors import UsageError


class _Option(NamedTuple):
    """`names[0]` is the option's name in a --config file; the others are aliases."""

    names: tuple[str, ...]
    metavar: str  # "" for a switch
    help: str
    can_be_denied: bool = False  # there is --no-…, too


_Options = tuple[_Option, ...]

_NODE: _Options = (
    _Option(("hostname-override", "node-name"), "NAME", "Node name; default: the host name."),
    _Option(
        ("bind-address",), "IP", "The node's primary address of its family; default: the Node's."
    ),
    _Option(("cluster-cidr",), "CIDR[,CIDR]", "Accepted; pods are told by their devices."),
    _Option(
        ("nodeport-addresses",),
        "primary|CIDR,…",
        "Where NodePorts are served; default: primary.",
    ),
    _Option(
        ("nodeport-range", "service-node-port-range"),
        "FIRST-LAST",
        "The API server's range of NodePorts; default: 30000-32767.",
    ),
    _Option(
        ("reserve-node-ports", "enable-auto-protect-node-port-range"),
        "",
        "Keep NodePorts out of the ports the node's connections start from; default: on.",
        can_be_denied=True,
    ),
    _Option(("healthz-bind-address",), "ADDR", 'Default: 0.0.0.0:10256; "" disables.'),
    _Option(("metrics-bind-address",), "ADDR", 'Default: 127.0.0.1:10249; "" disables.'),
    _Option(
        ("socket-lb",),
        "",
        "Choose backends when sockets connect; default: on.",
        can_be_denied=True,
    ),
    _Option(
        ("packet-lb",),
        "",
        "Serve packets on devices: clients outside, VMs, sandboxed pods; default: on.",
        can_be_denied=True,
    ),
    _Option(("takeover",), "", "Remove the rules kube-proxy left, once Services are served here."),
    _Option(("log-format",), "text|json", "Default: text."),
    _Option(("log-level",), "LEVEL", "Default: info."),
)
_SERVICES: _Options = (
    _Option(
        ("kubeconfig",),
        "PATH",
        "A Kubernetes API server; `in-cluster` for the ServiceAccount of this pod.",
    ),
    _Option(("master",), "URL[,URL]", "API servers to try in turn, in place of the kubeconfig's."),
    _Option(
        ("state-file",),
        "PATH",
        "A YAML or JSON file, or a directory of them; no Kubernetes needed.",
    ),
)
_PLACES: _Options = (
    _Option(
        ("cgroup-root",),
        "PATH",
        "cgroup v2 directory to attach to; default: the host's root, found by itself.",
    ),
    _Option(("bpf-root",), "PATH", "bpffs directory for pins; default: /sys/fs/bpf/vipbee."),
    _Option(("devices",), "LIST", "Uplink devices, `eth+` wildcards; default: found by itself."),
    _Option(
        ("pod-devices",),
        "LIST",
        "Host-side pod devices, `veth+,cali+`; default: found by itself.",
    ),
    _Option(
        ("detect-local-mode",),
        "MODE",
        "BridgeInterface or InterfaceNamePrefix: how pods' devices are told.",
    ),
    _Option(
        ("pod-bridge-interface",),
        "NAME",
        "For mode BridgeInterface: its ports are pods' devices.",
    ),
    _Option(
        ("pod-interface-name-prefix",),
        "PREFIX",
        "For mode InterfaceNamePrefix: how names of pods' devices begin.",
    ),
)
_PACKETS: _Options = (
    _Option(
        ("service-cluster-ip-range",),
        "CIDR[,CIDR]",
        "Where ClusterIPs come from; packets to free ones are dropped.",
    ),
    _Option(
        ("bpf-lb-external-clusterip",),
        "",
        "Serve ClusterIPs to clients outside as well; default: off.",
        can_be_denied=True,
    ),
    _Option(
        ("masquerade-all",),
        "",
        "Show backends of ClusterIPs an address of the node; default: off.",
        can_be_denied=True,
    ),
    _Option(
        ("conntrack-tcp-timeout-established",),
        "DURATION",
        "Idle TCP connections are remembered so long; default: 2h4m.",
    ),
    _Option(
        ("conntrack-udp-timeout-stream",),
        "DURATION",
        "Idle UDP flows are remembered so long; default: 2m.",
    ),
)
_RIGHTS: _Options = (
    _Option(
        ("user",),
        "NAME|UID",
        "Who the agent becomes, without any right; default: vipbee, or a free number.",
    ),
    _Option(("privileged",), "", "Keep all rights in one process, without a helper."),
)
_GROUPS = {
    "Options": _NODE,
    "Services": _SERVICES,
    "Where to attach": _PLACES,
    "Packets": _PACKETS,
    "Rights": _RIGHTS,
}
_CONFIG = "config"


_DESCRIPTION = """\
Keep this node's kernel equal to what the Services say, until SIGTERM.

Stopping it, however hard, changes nothing in the kernel: `vipbee cleanup` does."""


def parse(arguments: Sequence[str]) -> tuple[Path | None, dict[str, Any]]:
    """The --config file, and what else was given, by option; raise UsageError.

    SystemExit, as by argparse, if help was asked for and is printed.
    """
    given = vars(make_parser().parse_args(arguments))
    config = given.pop(_CONFIG)
    return config, {name: value for name, value in given.items() if value is not None}


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vipbee agent",
        usage="vipbee agent [options]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    for title, options in _GROUPS.items():
        group = parser.add_argument_group(title)
        if options is _NODE:
            group.add_argument("-h", "--help", action="help", help="Show this.")
            text = "Options in a file, or a KubeProxyConfiguration."
            group.add_argument(f"--{_CONFIG}", metavar="FILE", type=Path, help=text)
        for option in options:
            _add(group, option)
    return parser


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _add(group: argparse._ArgumentGroup, option: _Option) -> None:
    flags = [f"--{name}" for name in option.names]
    if option.metavar:
        group.add_argument(*flags, metavar=option.metavar, dest=option.names[0], help=option.help)
    elif option.can_be_denied:
        action = argparse.BooleanOptionalAction
        group.add_argument(*flags, action=action, dest=option.names[0], help=option.help)
    else:
        group.add_argument(
            *flags, action="store_const", const=True, dest=option.names[0], help=option.help
        )
