# SPDX-License-Identifier: Apache-2.0
"""Which packets come from a pod of this node: kube-proxy's modes (R57) → how devices are told.

Here a pod is known by the device its packets come in by, whatever their source address is. So
two of the four modes say which devices these are, and the other two, which look at source
addresses, change nothing: so no CIDR of pods is kept that could be stale (R58).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vipbee.errors import UsageError

BRIDGE, PREFIX = "BridgeInterface", "InterfaceNamePrefix"
_BY_ADDRESS = ("ClusterCIDR", "NodeCIDR")
MODES = (*_BY_ADDRESS, BRIDGE, PREFIX)
_NEEDS = {BRIDGE: "pod_bridge", PREFIX: "pod_prefix"}
_OPTION = {"pod_bridge": "pod-bridge-interface", "pod_prefix": "pod-interface-name-prefix"}


def mode(option: str, value: Any) -> str:
    if value not in MODES:
        raise UsageError(f"{option} wants {', '.join(MODES[:-1])} or {MODES[-1]}, not {value!r}")
    return str(value)


def apply_mode(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Turn mode, bridge and prefix into `pod_devices` and `pod_bridge`, with warnings."""
    result = dict(settings)
    chosen = result.pop("detect_local_mode", None)
    prefix = result.pop("pod_prefix", None)
    bridge = result.pop("pod_bridge", None)
    warnings = []
    idle = [f"detect-local-mode {chosen}"] if chosen in _BY_ADDRESS else []
    idle += ["cluster-cidr"] if result.pop("cluster_cidrs", ()) else []
    if idle:
        has = "has" if len(idle) == 1 else "have"
        warnings.append(
            f"{' and '.join(idle)} {has} no effect: pods are told by their devices, see"
            " --pod-devices"
        )
    given = {"pod_bridge": bridge, "pod_prefix": prefix}
    needed = _NEEDS.get(chosen or "")
    if needed and not given[needed]:
        raise UsageError(f"detect-local-mode {chosen} wants {_OPTION[needed]} as well")
    for name, value in given.items():
        if value and name != needed:
            wanted = next(mode for mode, option in _NEEDS.items() if option == name)
            warnings.append(f"{_OPTION[name]} has no effect without detect-local-mode {wanted}")
    if chosen == PREFIX:
        result["pod_devices"] = (*result.get("pod_devices", ()), f"{prefix}+")
    elif chosen == BRIDGE:
        result["pod_bridge"] = bridge
    return result, warnings
