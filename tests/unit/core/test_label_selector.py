# SPDX-License-Identifier: Apache-2.0
"""Label selectors as Kubernetes reads them (k8s.io/apimachinery/pkg/labels)."""

from __future__ import annotations

import pytest

from vipbee.core.label_selector import matches

LABELS = {"zone": "a", "tier": "web", "empty": "", "kubernetes.io/os": "linux"}


@pytest.mark.parametrize(
    "selector",
    [
        *("", "  ", "zone", "zone=a", "zone==a", " zone = a ", "empty=", "empty"),
        *("zone!=b", "missing!=b", "!missing", "! missing", "zone in (a)", "zone in (b, a)"),
        *("zone notin (b)", "missing notin (b)", "kubernetes.io/os=linux,zone in (a,b),!legacy"),
        "tier in (web,db) , zone=a",
    ],
)
def test_selector_matches(selector: str) -> None:
    assert matches(selector, LABELS)


@pytest.mark.parametrize(
    "selector",
    [
        *("missing", "zone=b", "zone!=a", "!zone", "missing in (a)", "zone notin (a, b)"),
        *("zone=a,tier=db", "zone=a,!tier", "missing="),
    ],
)
def test_selector_does_not_match(selector: str) -> None:
    assert not matches(selector, LABELS)


@pytest.mark.parametrize(
    "selector", ["zone in a", "=a", "zone in (a", "zone=a b", "zone=a,", ",", "zone > 3", "a;b"]
)
def test_what_is_no_selector_is_refused(selector: str) -> None:
    with pytest.raises(ValueError, match="is no label selector"):
        matches(selector, LABELS)
