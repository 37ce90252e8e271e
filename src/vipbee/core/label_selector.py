# SPDX-License-Identifier: Apache-2.0
"""Kubernetes label selectors as text: `zone=a, tier in (web, api), !legacy`.

All of their requirements must hold. Syntax and meaning as k8s.io/apimachinery/pkg/labels: a
label that is missing satisfies `!=` and `notin`. Without `>` and `<`, which nodes' labels of
this use have no need of.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

_REQUIREMENT = re.compile(
    r"\s*(?:"
    r"(?P<without>!)\s*(?P<absent>[\w./-]+)"
    r"|(?P<set_key>[\w./-]+)\s+(?P<set_op>in|notin)\s*\(\s*(?P<values>[\w.\-\s,]*)\)"
    r"|(?P<key>[\w./-]+)\s*(?:(?P<op>==|=|!=)\s*(?P<value>[\w.-]*))?"
    r")\s*",
    re.ASCII,
)


class _Requirement(NamedTuple):
    key: str
    values: frozenset[str] | None  # None: any
    is_wanted: bool  # False: the label must not be there, or have none of the values

    def holds(self, labels: Mapping[str, str]) -> bool:
        has = self.key in labels and (self.values is None or labels[self.key] in self.values)
        return has is self.is_wanted


def matches(selector: str, labels: Mapping[str, str]) -> bool:
    """Whether all requirements hold; ValueError if the text is no selector. "" is everything."""
    return all(requirement.holds(labels) for requirement in _parse(selector))


@lru_cache(maxsize=256)
def _parse(selector: str) -> tuple[_Requirement, ...]:
    found = []
    at = 0
    while selector.strip() and at <= len(selector):
        match = _REQUIREMENT.match(selector, at)
        at = match.end() if match else at
        if match is None or selector[at : at + 1] not in ("", ","):
            raise ValueError(f"{selector!r} is no label selector")
        found.append(_requirement(match))
        at += 1  # the comma
    return tuple(found)


def _requirement(match: re.Match[str]) -> _Requirement:
    if match["without"]:
        return _Requirement(match["absent"], None, False)
    if match["set_key"]:
        values = frozenset(value.strip() for value in match["values"].split(","))
        return _Requirement(match["set_key"], values, match["set_op"] == "in")
    if match["op"]:
        return _Requirement(match["key"], frozenset((match["value"],)), match["op"] != "!=")
    return _Requirement(match["key"], None, True)
