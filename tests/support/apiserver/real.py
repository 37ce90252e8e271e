# SPDX-License-Identifier: Apache-2.0
"""The real API server in a place of the lab, where KUBEBUILDER_ASSETS names its binaries.

That is the convention of envtest: a folder with `kube-apiserver` and `etcd`. What agents may
do there is what deploy/ gives them: the ClusterRole of the plain manifests, and no more.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.support.apiserver.paths import Manifest, State, standing
from tests.support.certificates import Authority
from vipbee.lab import Place

PORT, ETCD_PORT, ETCD_PEER_PORT = 6443, 2379, 2380
START_TIMEOUT_S = 60.0
SERVICE_CIDRS = "10.96.0.0/16,fd00:10:96::/112"
ADMIN, AGENT = "admin-of-the-test", "agent-of-the-test"
ROOT = Path(__file__).parents[3]
MANIFESTS = ROOT / "deploy" / "kubernetes" / "vipbee.yaml"
_ACCOUNT = "system:serviceaccount:kube-system:vipbee"


def assets() -> Path | None:
    """The folder with the binaries, if there is one."""
    name = os.environ.get("KUBEBUILDER_ASSETS")
    folder = Path(name) if name else None
    if folder and all((folder / program).exists() for program in ("kube-apiserver", "etcd")):
        return folder
    return None


class RealApiServer:
    """Like PlacedApiServer. What it has survives `kill`, as etcd keeps running."""

    def __init__(self, place: Place, directory: Path, folder: Path) -> None:
        self._place, self._folder = place, folder
        self._directory = Path(tempfile.mkdtemp(prefix="api-", dir=directory))
        self._certificates = Authority(self._directory / "tls")
        self._pair = self._certificates.issue("apiserver", names=f"IP:{place.ipv4}")
        self._etcd: subprocess.Popen[str] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._state: dict[str, dict[str, Mapping[str, Any]]] = {}

    @property
    def url(self) -> str:
        return f"https://{self._place.ipv4}:{PORT}"

    def kubeconfig(self) -> Path:
        """A file that leads here, as the account that deploy/ makes."""
        path = self._directory / "kubeconfig.yaml"
        cluster = {"server": self.url, "certificate-authority": str(self._certificates.file)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "lab",
            "clusters": [{"name": "lab", "cluster": cluster}],
            "users": [{"name": "vipbee", "user": {"token": AGENT}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "vipbee"}}],
        }
        path.write_text(json.dumps(content))
        return path

    def start(self, state: Mapping[str, list[Mapping[str, Any]]]) -> None:
        """Start, and bring it to these objects."""
        if self._etcd is None:
            self._etcd = self._run("etcd", self._etcd_options())
        self._process = self._run("kube-apiserver", self._options())
        self._wait_ready()
        self._grant()
        self.publish(state)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """Etcd too: what it had is gone."""
        self.kill()
        if self._etcd is not None:
            self._etcd.kill()
            self._etcd.wait()
            self._etcd = None

    def publish(self, state: Mapping[str, list[Mapping[str, Any]]]) -> None:
        """Write what differs from the last state; a Service with another ClusterIP is made anew."""
        new = _by_collection(state)
        for path, items in self._state.items():
            for name in items:
                if _must_go(items[name], new.get(path, {}).get(name)):
                    self.request("DELETE", f"{path}/{name}")
        for path, items in new.items():
            for name, item in items.items():
                old = self._state.get(path, {}).get(name)
                if old == item:
                    continue
                if _must_go(old, item) or old is None:
                    self._create(path, name, item)
                else:
                    self.request("PATCH", f"{path}/{name}", item)
        self._state = new

    def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: str = ADMIN
    ) -> tuple[int, dict[str, Any]]:
        """One request; its status, and what was answered."""
        return self._place.inside(lambda: self._send(method, path, body, token))

    # ---- private -------------------------------------------------------------------------

    def _create(self, path: str, name: str, item: Mapping[str, Any]) -> None:
        status, answer = self.request("POST", path, item)
        assert status == 201, answer
        if item.get("status"):
            status, answer = self.request("PATCH", f"{path}/{name}/status", item)
            assert status == 200, answer

    def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, token: str
    ) -> tuple[int, dict[str, Any]]:
        context = ssl.create_default_context(cafile=str(self._certificates.file))
        connection = http.client.HTTPSConnection(
            self._place.ipv4, PORT, timeout=10, context=context
        )
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
        connection.request(method, path, json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, {"text": text.decode()}

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if self.request("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                pass
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self._directory / "kube-apiserver.log").read_text().splitlines()[-5:]
                raise AssertionError(f"kube-apiserver is not ready: {tail}")
            time.sleep(0.1)

    def _grant(self) -> None:
        """Give the agent's account the roles of the plain manifests."""
        for manifest in yaml.safe_load_all(MANIFESTS.read_text()):
            if not manifest or manifest["kind"] not in ("ClusterRole", "ClusterRoleBinding"):
                continue
            plural = f"{manifest['kind'].lower()}s"
            status, answer = self.request(
                "POST", f"/apis/rbac.authorization.k8s.io/v1/{plural}", manifest
            )
            assert status in (201, 409), answer

    def _run(self, program: str, options: list[str]) -> subprocess.Popen[str]:
        log = self._directory / f"{program}.log"
        return self._place.start_daemon([str(self._folder / program), *options], log=log)

    def _etcd_options(self) -> list[str]:
        here, peers = f"http://127.0.0.1:{ETCD_PORT}", f"http://127.0.0.1:{ETCD_PEER_PORT}"
        return [
            f"--data-dir={self._directory / 'etcd'}",
            f"--listen-client-urls={here}",
            f"--advertise-client-urls={here}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=default={peers}",
            "--unsafe-no-fsync",
        ]

    def _options(self) -> list[str]:
        tokens = self._directory / "tokens.csv"
        tokens.write_text(
            f'{ADMIN},admin,1,"system:masters"\n{AGENT},{_ACCOUNT},2,"system:serviceaccounts"\n'
        )
        return [
            f"--etcd-servers=http://127.0.0.1:{ETCD_PORT}",
            f"--bind-address={self._place.ipv4}",
            f"--advertise-address={self._place.ipv4}",
            f"--secure-port={PORT}",
            f"--tls-cert-file={self._pair.certificate}",
            f"--tls-private-key-file={self._pair.key}",
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            f"--service-cluster-ip-range={SERVICE_CIDRS}",
            "--service-account-issuer=https://lab",
            f"--service-account-key-file={self._pair.certificate}",
            f"--service-account-signing-key-file={self._pair.key}",
            "--disable-admission-plugins=ServiceAccount",
            "--shutdown-delay-duration=0s",
        ]


def _must_go(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> bool:
    """Whether an object must be deleted, also to be made again: ClusterIPs do not change."""
    if old is None:
        return False
    if new is None:
        return True
    return bool(old.get("spec", {}).get("clusterIPs") != new.get("spec", {}).get("clusterIPs"))


def _by_collection(state: State) -> dict[str, dict[str, Manifest]]:
    """Path of a collection → name → object, Services before their slices."""
    found: dict[str, dict[str, Manifest]] = {}
    for _, collection, name, manifest in standing(state):
        found.setdefault(collection, {})[name] = manifest
    return found
