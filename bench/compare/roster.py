# SPDX-License-Identifier: Apache-2.0
"""Who is compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.compare.cilium import CiliumAgent, title_of
from bench.compare.kube_proxy import KubeProxy
from bench.compare.place import Site
from bench.compare.proxies import Direct, IptablesRules, NftablesRules, Proxy
from bench.compare.result import Skipped
from bench.compare.vipbee_agent import VipbeeAgent


@dataclass(frozen=True, slots=True)
class Candidate:
    key: str
    title: str
    make: Callable[[Site], Proxy]


def candidates(
    kube_proxy: Path | None, *, cilium_agent: Path | None = None, smoke: bool = False
) -> list[Candidate]:
    """Everybody; `smoke`: one of each kind. `kube_proxy`: the real one, if there is one."""
    everybody = [
        _candidate("direct", "direct, no Service", lambda site, key, title: Direct(site)),
        _candidate(
            "vipbee",
            "vipbee, sockets",
            lambda *who: VipbeeAgent(*who, sockets=True, packets=False),
        ),
        _candidate(
            "vipbee-packets",
            "vipbee, packets",
            lambda *who: VipbeeAgent(*who, sockets=False, packets=True),
        ),
    ]
    for key, mode, backend in (
        ("nftables", "nftables", "nft"),
        ("iptables-nft", "iptables", "nft"),
        ("iptables-legacy", "iptables", "legacy"),
    ):
        name = mode if mode == "nftables" else f"{mode} ({backend})"
        if kube_proxy is not None:
            everybody.append(
                _candidate(
                    key,
                    f"kube-proxy, {name}",
                    lambda *who, mode=mode, backend=backend: KubeProxy(
                        *who, kube_proxy, mode, backend
                    ),
                )
            )
        elif mode == "nftables":
            everybody.append(_candidate(key, f"kube-proxy's rules, {name}", NftablesRules))
        else:
            everybody.append(
                _candidate(
                    key,
                    f"kube-proxy's rules, {name}",
                    lambda *who, backend=backend: IptablesRules(*who, backend),
                )
            )
    if cilium_agent is not None:
        everybody.append(
            _candidate(
                "cilium", title_of(cilium_agent), lambda *who: CiliumAgent(*who, cilium_agent)
            )
        )
    if smoke:
        return [who for who in everybody if who.key != "iptables-nft"]
    return everybody


def skipped(*, cilium_agent: Path | None) -> list[Skipped]:
    """Who is not among the candidates."""
    if cilium_agent is not None:
        return []
    return [
        Skipped(
            "Cilium",
            "Give its agent: `python -m bench.compare --cilium-agent PATH`, "
            "`make bench CILIUM_AGENT=PATH`.",
        )
    ]


def _candidate(key: str, title: str, make: Callable[..., Proxy]) -> Candidate:
    return Candidate(key, title, lambda site: make(site, key, title))
