# SPDX-License-Identifier: Apache-2.0
"""Events of events.k8s.io/v1: created, patched, listed; no versions, nobody watches them.

Refuses what kube-apiserver refuses (pkg/apis/core/validation/events.go): so an Event that is
accepted here is one.
"""

from __future__ import annotations

import json
import re
from typing import Any

from aiohttp import web

from tests.support.apiserver.faults import status_object

PREFIX = "/apis/events.k8s.io/v1"
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_CONTROLLER = re.compile(r"([a-z0-9.-]+/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class EventStore:
    """What was written; `is_forbidden` answers 403, `fail` answers these codes first."""

    def __init__(self) -> None:
        self.items: dict[tuple[str, str], dict[str, Any]] = {}
        self.requests: list[tuple[str, int]] = []  # method and status
        self.is_forbidden = False
        self.fail: list[int] = []

    def routes(self) -> list[web.RouteDef]:
        one = PREFIX + "/namespaces/{namespace}/events/{name}"
        return [
            web.post(PREFIX + "/namespaces/{namespace}/events", self._create),
            web.patch(one, self._patch),
            web.get(PREFIX + "/events", self._list),
        ]

    @property
    def notes(self) -> list[str]:
        return [item["note"] for item in self.items.values()]

    async def _create(self, request: web.Request) -> web.Response:
        item = await request.json()
        namespace = request.match_info["namespace"]
        key = (namespace, item["metadata"]["name"])
        wrong = _wrong(item, namespace)
        if (failed := self._failed()) is not None:
            return self._answer("POST", failed)
        if request.content_type != "application/json":
            return self._answer("POST", 415)
        if wrong:
            return self._answer("POST", 422, wrong)
        if key in self.items:
            return self._answer("POST", 409)
        self.items[key] = item
        return self._answer("POST", 201)

    async def _patch(self, request: web.Request) -> web.Response:
        key = (request.match_info["namespace"], request.match_info["name"])
        patch = await request.json()
        if (failed := self._failed()) is not None:
            return self._answer("PATCH", failed)
        if request.content_type != "application/merge-patch+json":
            return self._answer("PATCH", 415)
        if key not in self.items:
            return self._answer("PATCH", 404)
        series = patch.get("series", {})
        if series.get("count", 0) < 2 or not _MICRO_TIME.fullmatch(series["lastObservedTime"]):
            return self._answer("PATCH", 422, "series")
        self.items[key] = self.items[key] | patch
        return self._answer("PATCH", 200)

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({"kind": "EventList", "items": list(self.items.values())})

    def _failed(self) -> int | None:
        if self.is_forbidden:
            return 403
        return self.fail.pop(0) if self.fail else None

    def _answer(self, method: str, code: int, message: str = "") -> web.Response:
        self.requests.append((method, code))
        body = {} if code < 300 else status_object(code, "", message or f"scripted {code}")
        return web.Response(
            status=code, body=json.dumps(body).encode(), content_type="application/json"
        )


def _wrong(item: dict[str, Any], namespace: str) -> str:
    """The first field that is not valid."""
    regarding = item.get("regarding", {})
    series = item.get("series")
    checks = {
        "metadata.namespace": item["metadata"].get("namespace") == namespace,
        "metadata.name": _NAME.fullmatch(item["metadata"]["name"]),
        "eventTime": _MICRO_TIME.fullmatch(item.get("eventTime", "")),
        "regarding.namespace": regarding.get("namespace") == namespace
        or ("namespace" not in regarding and namespace in ("default", "kube-system")),
        "reportingController": _CONTROLLER.fullmatch(item.get("reportingController", "")),
        "reportingInstance": 0 < len(item.get("reportingInstance", "")) <= 128,
        "action": 0 < len(item.get("action", "")) <= 128,
        "reason": 0 < len(item.get("reason", "")) <= 128,
        "note": len(item.get("note", "").encode()) <= 1024,
        "type": item.get("type") in ("Normal", "Warning"),
        "series": series is None or series.get("count", 0) >= 2,
    }
    return next((field for field, is_right in checks.items() if not is_right), "")
