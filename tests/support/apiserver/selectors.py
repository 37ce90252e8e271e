# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors, as far as they are used: `k`, `!k`, `k=v`, `k!=v`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Manifest = Mapping[str, Any]
Selector = Callable[[Manifest], bool]


def selector(labels: str, fields: str) -> Selector:
    """Predicate for both; an empty text selects everything."""
    tests = [_test(term, _label) for term in labels.split(",") if term]
    tests += [_test(term, _field) for term in fields.split(",") if term]
    return lambda item: all(test(item) for test in tests)


def _test(term: str, read: Callable[[Manifest, str], str | None]) -> Selector:
    if term.startswith("!"):
        return lambda item: read(item, term[1:]) is None
    if "!=" in term:
        unwanted, value = term.split("!=")
        return lambda item: read(item, unwanted) != value
    if "=" in term:
        key, wanted = term.replace("==", "=").split("=")
        return lambda item: read(item, key) == wanted
    return lambda item: read(item, term) is not None


def _label(item: Manifest, key: str) -> str | None:
    return (item["metadata"].get("labels") or {}).get(key)


def _field(item: Manifest, path: str) -> str | None:
    value: Any = item
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
