# SPDX-License-Identifier: Apache-2.0
"""The Helm chart and the plain manifests: valid, the same, and understood by the agent.

Helm's own engine renders, through helm-python-sdk; the schemas are Kubernetes' own, through
kubernetes-validate.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from vipbee.config import IN_CLUSTER, load_config
from vipbee.sources.kubernetes.resources import ENDPOINT_SLICES, SERVICES, own_node

helm = pytest.importorskip("helm_python", reason="helm-python-sdk has no wheel for this machine")
render_manifests = pytest.importorskip("tools.render_manifests")

CHART = render_manifests.CHART
KUBERNETES_VERSIONS = ("1.30", "1.31", "1.32", "1.33", "1.34", "1.35", "1.36", "1.37")
FOR_THE_DATAPATH = ("BPF", "PERFMON", "NET_ADMIN")
FOR_GIVING_UP_RIGHTS = ("SETUID", "SETGID", "SETPCAP")
FOR_SEEING_KUBE_PROXY = ("NET_RAW",)  # iptables-legacy-save
REQUIRED: dict[str, Any] = {
    "apiServers": ["https://10.0.0.1:6443", "https://[fd00::1]:6443"],
    "image": {"repository": "registry.example/vipbee"},
}
EVERY_SWITCH: dict[str, Any] = {
    "takeover": True,
    "mountBpffs": True,
    "oldKernel": True,
    "releasePodSockets": False,
    "nodeSelector": {"vipbee.io/proxy": "active"},
    "affinity": {"nodeAffinity": {}},
    "maxUnavailable": 1,
    "podLabels": {"team": "network"},
    "podAnnotations": {"note": "x"},
    "agent": {"packet-lb": True, "map-sizes": {"backends": 1024}, "masquerade-all": True},
    "resources": {"limits": {"memory": "1Gi"}},
    "serviceAccount": {"annotations": {"note": "x"}},
}
VARIANTS = {
    "required": {},
    "every switch": EVERY_SWITCH,
    "digest": {"image": {"digest": "sha256:" + "0" * 64, "pullSecrets": [{"name": "pull"}]}},
    "own account": {
        "serviceAccount": {"create": False, "name": "other"},
        "rbac": {"create": False},
    },
}


def with_required(values: dict[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(REQUIRED)
    for name, value in values.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = {**merged[name], **value} if both else value
    return merged


def render(values: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Objects by template name."""
    rendered = render_manifests.render(with_required(values))
    return {name: yaml.safe_load(text) for name, text in rendered.items()}


def pod_spec(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    spec: dict[str, Any] = objects["daemonset"]["spec"]["template"]["spec"]
    return spec


def agent_container(objects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    (container,) = pod_spec(objects)["containers"]
    return dict(container)


def plain_objects() -> list[dict[str, Any]]:
    directory = render_manifests.DEPLOY / "kubernetes"
    files = [directory / "vipbee.yaml", directory / "cleanup.yaml"]
    return [item for file in files for item in yaml.safe_load_all(file.read_text()) if item]


def test_helm_lint_finds_nothing() -> None:
    report = helm.lint(CHART, with_required({}), strict=True)

    messages = [m["error"] for m in report["messages"] if m["error"] != "icon is recommended"]
    assert (messages, report["errors"]) == ([], [])


def test_plain_manifests_are_the_rendered_chart() -> None:
    assert render_manifests.MANIFESTS.read_text() == render_manifests.plain_manifests(), (
        "run `make manifests`"
    )


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_plain_manifests_are_valid(version: str) -> None:
    for item in plain_objects():
        kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rendered_objects_are_valid(variant: str) -> None:
    for item in render(VARIANTS[variant]).values():
        kubernetes_validate.validate(item, KUBERNETES_VERSIONS[-1], strict=True)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"apiServers": []}, "/apiServers"),
        ({"apiServers": ["10.0.0.1:6443"]}, "/apiServers/0"),
        ({"image": {"repository": ""}}, "/image/repository"),
        ({"image": {"digest": "latest"}}, "/image/digest"),
        ({"takover": True}, "takover"),
        ({"agent": {"master": ["https://10.96.0.1"]}}, "propertyName 'master'"),
        ({"agent": {"logFormat": "json"}}, "propertyName 'logFormat'"),
        ({"hostPaths": {"cgroup": "sys/fs/cgroup"}}, "/hostPaths/cgroup"),
        ({"maxUnavailable": "0%"}, "/maxUnavailable"),
    ],
)
def test_schema_refuses(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(helm.HelmError, match=complaint):
        render(values)


def test_chart_needs_the_two_values_nobody_can_guess() -> None:
    with pytest.raises(helm.HelmError) as refused:
        render_manifests.render({})

    assert "/apiServers" in str(refused.value)
    assert "/image/repository" in str(refused.value)


@pytest.mark.parametrize("values", [{}, EVERY_SWITCH], ids=["defaults", "every switch"])
def test_agent_understands_its_configuration(values: dict[str, Any], tmp_path: Path) -> None:
    """The ConfigMap is a --config file, and no option in it has no meaning."""
    objects = render(values)
    (name,) = objects["configmap"]["data"]
    mounts = {
        mount["name"]: mount["mountPath"] for mount in agent_container(objects)["volumeMounts"]
    }
    (tmp_path / name).write_text(objects["configmap"]["data"][name])

    settings, warnings = load_config(tmp_path / name, {})

    assert warnings == ()
    assert settings.kubeconfig == IN_CLUSTER
    assert settings.api_servers == tuple(REQUIRED["apiServers"])
    assert str(settings.cgroup_root) == mounts["cgroup"]
    assert settings.bpf_root.parent == Path(mounts["bpffs"])
    assert f"--config={mounts['config']}/{name}" in agent_container(objects)["args"]


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("0.0.0.0:10256", "127.0.0.1", 10256),
        ("[::]:10300", "127.0.0.1", 10300),
        ("10.0.0.7:10256", "10.0.0.7", 10256),
        ("[fd00::7]:10256", "fd00::7", 10256),
    ],
)
def test_probes_ask_where_the_agent_listens(address: str, host: str, port: int) -> None:
    container = agent_container(render({"agent": {"healthz-bind-address": address}}))

    asked = {name: container[name]["httpGet"] for name in container if name.endswith("Probe")}

    assert asked == {
        "startupProbe": {"host": host, "port": port, "path": "/livez"},
        "livenessProbe": {"host": host, "port": port, "path": "/livez"},
        "readinessProbe": {"host": host, "port": port, "path": "/healthz"},
    }


def test_rights_are_what_is_read_and_nothing_else() -> None:
    """RBAC (security.md 4.3): no secrets, no pods, no ConfigMaps, nothing written but Events."""
    rules = render({})["clusterrole"]["rules"]
    granted = {
        (group, resource): set(rule["verbs"])
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }

    read = {}
    for resource in (SERVICES, ENDPOINT_SLICES, own_node("n")):
        group = resource.path.split("/")[2] if resource.path.startswith("/apis/") else ""
        read[group, resource.plural] = {"get", "list", "watch"}
    assert granted == {
        **read,
        ("networking.k8s.io", "servicecidrs"): {"list", "watch"},
        ("events.k8s.io", "events"): {"create", "patch"},
    }


def test_agent_has_the_capabilities_it_needs_and_is_not_privileged() -> None:
    container = agent_container(render({}))["securityContext"]

    assert "privileged" not in container
    assert container["capabilities"] == {
        "drop": ["ALL"],
        "add": [*FOR_THE_DATAPATH, *FOR_GIVING_UP_RIGHTS, *FOR_SEEING_KUBE_PROXY, "SYS_ADMIN"],
    }


def test_without_releasing_sockets_of_pods_sys_admin_goes() -> None:
    container = agent_container(render({"releasePodSockets": False}))["securityContext"]

    assert container["capabilities"]["add"] == [
        *FOR_THE_DATAPATH,
        *FOR_GIVING_UP_RIGHTS,
        *FOR_SEEING_KUBE_PROXY,
    ]
    assert container["allowPrivilegeEscalation"] is False


def test_pod_shares_the_network_of_the_node_and_nothing_more() -> None:
    spec = pod_spec(render({}))

    assert spec["hostNetwork"] is True
    assert "hostPID" not in spec
    assert "hostIPC" not in spec
    assert spec["dnsPolicy"] == "Default"  # the cluster's DNS is behind a Service


def test_only_one_agent_runs_on_a_node_during_an_update() -> None:
    """The port and the pins have room for one."""
    strategy = render({})["daemonset"]["spec"]["updateStrategy"]

    assert strategy["rollingUpdate"]["maxSurge"] == 0


def test_a_changed_configuration_replaces_the_pods() -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = render(values)["daemonset"]["spec"]["template"]
        return str(template["metadata"]["annotations"]["vipbee.io/config-sha256"])

    assert checksum({}) == checksum({"takeover": True})
    assert checksum({}) != checksum({"agent": {"log-level": "debug"}})
