# SPDX-License-Identifier: Apache-2.0
"""The real servers of pods: command line and configuration of each kind. Pure.

All answer which pod they are: nginx as the body of every page, the DNS server as the
TXT record of `whoami.lab`, the echo server to `whoami`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vipbee.lab import echo
from vipbee.lab.blueprint import PlacePlan
from vipbee.lab.topology import ServerKind

DNS_QUESTION = "whoami.lab"
PROGRAMS = {ServerKind.NGINX: "nginx", ServerKind.DNS: "dnsmasq"}
"""Program of the system that a kind needs; echo needs only Python."""

NGINX_CONF = """\
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  default_type text/plain;
  keepalive_requests 1000000;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  server {{
    listen 0.0.0.0:{port} backlog=4096;
    listen [::]:{port} ipv6only=on backlog=4096;
    location / {{ return 200 "{name}\\n"; }}
    location /client {{ return 200 "{name} $remote_addr $remote_port\\n"; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """`files` are written below the server's own directory before `argv` starts."""

    name: str
    port: int
    argv: tuple[str, ...]
    files: dict[str, str]


def plan_server(
    pod: PlacePlan,
    kind: ServerKind,
    port: int,
    *,
    directory: Path,
    dns_records: Mapping[str, tuple[str, ...]],
) -> ServerPlan:
    """`dns_records`: name → addresses, what a DNS pod knows besides its own name."""
    if kind is ServerKind.NGINX:
        conf = NGINX_CONF.format(name=pod.name, port=port, directory=directory)
        argv = (
            *("nginx", "-p", str(directory), "-e", f"{directory}/error.log"),
            *("-c", f"{directory}/nginx.conf"),
        )
        return ServerPlan("nginx", port, argv, {"nginx.conf": conf})
    if kind is ServerKind.DNS:
        return ServerPlan("dnsmasq", port, _dnsmasq(pod, port, dns_records), {})
    command = (sys.executable, "-IS", echo.__file__, pod.name, str(port))
    return ServerPlan("echo", port, command, {})


def _dnsmasq(pod: PlacePlan, port: int, records: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return (
        "dnsmasq",
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
        "--pid-file=",
        f"--port={port}",
        "--local=/lab/cluster.local/",
        f"--txt-record={DNS_QUESTION},{pod.name}",
        f"--host-record={pod.name}.lab,{pod.ipv4},{pod.ipv6}",
        *(f"--host-record={name},{','.join(found)}" for name, found in records.items()),
    )
