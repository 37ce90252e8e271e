# SPDX-License-Identifier: Apache-2.0
"""The API server as a process in a place of the lab, written to from the test."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.apiserver.events import PREFIX as EVENTS
from tests.support.apiserver.paths import SECTIONS, Manifest, State, standing
from vipbee.lab import Place

PORT = 6443
START_TIMEOUT_S = 15.0
ROOT = Path(__file__).parents[3]


class PlacedApiServer:
    """`state` is what it starts with and what `publish` changes: as in a state file."""

    def __init__(self, place: Place, directory: Path) -> None:
        self._place = place
        self._directory = directory
        self._process: subprocess.Popen[str] | None = None
        self._state: dict[str, dict[str, Mapping[str, Any]]] = {}  # plural → path → manifest

    @property
    def url(self) -> str:
        return f"http://{self._place.ipv4}:{PORT}"

    def kubeconfig(self) -> Path:
        """A file that leads here."""
        path = self._directory / "kubeconfig.yaml"
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": {"server": self.url}}],
            "users": [{"name": "vipbee", "user": {"token": "lab"}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "vipbee"}}],
        }
        path.write_text(json.dumps(content))
        return path

    def start(self, state: Mapping[str, list[Mapping[str, Any]]]) -> None:
        """Start with these objects, at revisions that may have been given before."""
        file = self._directory / "apiserver.json"
        file.write_text(json.dumps(state))
        argv = [sys.executable, "-m", "tests.support.apiserver", f"{self._place.ipv4}:{PORT}"]
        command = ["env", f"PYTHONPATH={ROOT}:{ROOT / 'src'}", *argv, str(file)]
        process = self._process = self._place.popen(command)
        self._place.wait_listening(
            PORT,
            addresses=[self._place.ipv4],
            deadline=time.monotonic() + START_TIMEOUT_S,
            alive=lambda: process.poll() is None,
        )
        self._state = _by_path(state)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def close(self) -> None:
        self.kill()

    def publish(self, state: Mapping[str, list[Mapping[str, Any]]]) -> None:
        """Write what differs from the last state, deletions last."""
        new = _by_path(state)
        requests: list[tuple[str, str, Mapping[str, Any] | None]] = []
        for plural, items in new.items():
            old = self._state.get(plural, {})
            requests += [("PUT", p, item) for p, item in items.items() if old.get(p) != item]
        for plural, items in self._state.items():
            requests += [("DELETE", p, None) for p in items if p not in new.get(plural, {})]
        self._place.inside(lambda: self._send(requests))
        self._state = new

    def put(self, plural: str, item: Mapping[str, Any]) -> None:
        """Write one object; `publish` then takes it for what was last published."""
        section = next(section for section, name in SECTIONS.items() if name == plural)
        ((path, item),) = _by_path({section: [item]})[plural].items()
        self._place.inside(lambda: self._send([("PUT", path, item)]))
        self._state.setdefault(plural, {})[path] = item

    def events(self) -> list[dict[str, Any]]:
        """The Events that were written."""

        def read() -> bytes:
            connection = http.client.HTTPConnection(self._place.ipv4, PORT, timeout=5)
            connection.request("GET", f"{EVENTS}/events")
            with connection.getresponse() as answer:
                return answer.read()

        found: list[dict[str, Any]] = json.loads(self._place.inside(read))["items"]
        return found

    def _send(self, requests: list[tuple[str, str, Mapping[str, Any] | None]]) -> None:
        connection = http.client.HTTPConnection(self._place.ipv4, PORT, timeout=5)
        for method, path, item in requests:
            connection.request(method, path, json.dumps(item) if item is not None else None)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, (method, path, answer.status)
        connection.close()


def _by_path(state: State) -> dict[str, dict[str, Manifest]]:
    """Plural → path → object."""
    found: dict[str, dict[str, Manifest]] = {}
    for plural, collection, name, manifest in standing(state):
        found.setdefault(plural, {})[f"{collection}/{name}"] = manifest
    return found
