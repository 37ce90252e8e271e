# SPDX-License-Identifier: Apache-2.0
"""Configurations from flags, and what most tests of files begin with."""

from __future__ import annotations

import ipaddress
from typing import Any

from vipbee.config import AgentConfig, load_config

STATE = {"state_file": "/s"}
KUBE_PROXY = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


def config_of(**flags: Any) -> AgentConfig:
    config, warnings = load_config(None, {**STATE, **flags})
    assert warnings == ()
    return config


def cidrs(*texts: str) -> tuple[Any, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)
