# SPDX-License-Identifier: Apache-2.0
"""Write deploy/kubernetes/vipbee.yaml: the Helm chart, rendered by Helm's own engine.

The chart is the one place where the objects are described, so the two cannot differ; a
unit test compares them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import helm_python
import yaml

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
CHART = DEPLOY / "helm" / "vipbee"
MANIFESTS = DEPLOY / "kubernetes" / "vipbee.yaml"
VALUES = DEPLOY / "kubernetes" / "values.yaml"

# As `kubectl apply` should meet them: the account and its rights before who uses them.
ORDER = ("serviceaccount", "clusterrole", "clusterrolebinding", "configmap", "daemonset")
HEADER = """\
# SPDX-License-Identifier: Apache-2.0
# Written by `make manifests` from deploy/helm/vipbee; do not edit. For Kubernetes 1.30 and newer.
# Replace REGISTRY/vipbee:… and https://API-SERVER:6443, then `kubectl apply -f` it:
# docs/operate.md.
"""


def render(values: dict[str, Any], *, namespace: str = "kube-system") -> dict[str, str]:
    """Template name → text, for those that render to something; HelmValuesError if refused."""
    with helm_python.Chart.load(CHART) as chart:
        rendered = chart.render(values, name="vipbee", namespace=namespace)
    return {Path(path).stem: text.strip() for path, text in rendered.items() if text.strip()}


def plain_manifests() -> str:
    rendered = render(yaml.safe_load(VALUES.read_text()))
    assert set(rendered) == set(ORDER), "ORDER names every template"
    return HEADER + "".join(f"---\n{rendered[name]}\n" for name in ORDER)


if __name__ == "__main__":
    MANIFESTS.write_text(plain_manifests())
