# SPDX-License-Identifier: Apache-2.0
"""How to reach the API server, by the configuration; and which files that takes."""

from __future__ import annotations

from vipbee.config import IN_CLUSTER, AgentConfig
from vipbee.sources.files import OWN_RIGHTS, Files
from vipbee.sources.kubernetes import Access, in_cluster, load_access


def read_access(config: AgentConfig, files: Files = OWN_RIGHTS) -> Access:
    """Raise SourceError."""
    if config.kubeconfig is None or config.kubeconfig == IN_CLUSTER:
        return in_cluster(servers=config.api_servers, files=files)
    return load_access(config.kubeconfig, config.api_servers, files)


def named_files(config: AgentConfig) -> list[str]:
    """Certificates, keys and tokens that are read when they are used."""
    return [str(file) for file in read_access(config).named_files()]
