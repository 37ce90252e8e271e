# SPDX-License-Identifier: Apache-2.0
"""Run a container of a pod manifest in a node of a lab, as kubelet and a runtime would.

Taken from the manifest: command, arguments, environment, volumes with read-only and
propagation, capabilities, no_new_privs, the read-only root. Namespaces: the node's network,
and mount, PID, UTS, IPC and cgroup namespaces of its own. Not there: AppArmor, SELinux and
seccomp profiles, resource limits, and whatever only an API server would check.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vipbee.lab import Place

SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_SCRIPT = """\
set -e
mount --make-rslave /
mount -t tmpfs tmpfs {work}
mkdir {work}/upper {work}/work {work}/root
cd {work}
mount -t overlay overlay -o lowerdir={rootfs},upperdir=upper,workdir=work root
mount -t proc proc root/proc
mount -t sysfs -o ro sysfs root/sys
mount --bind root/proc/sys root/proc/sys
mount -o remount,bind,ro root/proc/sys
mount --bind /dev root/dev
{mounts}
mount -o remount,{mode} {work}/root
exec env -i {environment} chroot {work}/root setpriv --inh-caps=-all \
  --bounding-set={capabilities} {no_new_privs} {command}
"""


@dataclass(frozen=True, slots=True)
class Node:
    """Where the pod runs: `place` with the pod's cgroup; `directories` by name of the volume."""

    place: Place
    rootfs: Path
    work: Path  # an empty directory
    directories: Mapping[str, Path]
    service_account: Path
    environment: Mapping[str, str] = field(default_factory=dict)  # of the image

    def run(self, pod: Mapping[str, Any], container: Mapping[str, Any], *, timeout_s: float = 60):
        """Run an (init) container to its end."""
        return self.place.run(self._command(pod, container), timeout_s=timeout_s)

    def start(
        self, pod: Mapping[str, Any], container: Mapping[str, Any], *, log: Path
    ) -> subprocess.Popen[str]:
        return self.place.start_daemon(self._command(pod, container), log=log)

    def _command(self, pod: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
        security = container["securityContext"]
        variables = dict(self.environment)
        for variable in container.get("env", ()):
            assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"
            variables[variable["name"]] = self.place.name
        command = [*container.get("command", ["vipbee"]), *container.get("args", ())]
        for name, value in variables.items():
            command = [word.replace(f"$({name})", value) for word in command]
        script = _SCRIPT.format(
            work=self.work,
            rootfs=self.rootfs,
            mounts="\n".join(self._mounts(pod, container)),
            mode="ro" if security["readOnlyRootFilesystem"] else "rw",
            environment=shlex.join(f"{name}={value}" for name, value in variables.items()),
            capabilities=_bounding_set(security),
            no_new_privs="" if security.get("allowPrivilegeEscalation", True) else "--no-new-privs",
            command=shlex.join(command),
        )
        namespaces = ("--mount", "--pid", "--uts", "--ipc", "--cgroup", "--propagation=slave")
        return ["unshare", *namespaces, "--fork", "--kill-child", "/bin/sh", "-c", script]

    def _mounts(self, pod: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
        known = {volume["name"] for volume in pod["volumes"]}
        lines = []
        for mount in container.get("volumeMounts", ()):
            assert mount["name"] in known, "the API server refuses it"
            lines += _mount(
                self.directories[mount["name"]],
                mount["mountPath"],
                is_read_only=mount.get("readOnly", False),
                propagation=mount.get("mountPropagation"),
            )
        if pod.get("automountServiceAccountToken", True):
            lines += _mount(self.service_account, SERVICE_ACCOUNT, is_read_only=True)
        return lines


def _mount(
    source: Path, target: str, *, is_read_only: bool, propagation: str | None = None
) -> list[str]:
    """As runtimes do: recursive, cut off from the host unless the manifest wants otherwise."""
    kinds = {None: "rprivate", "HostToContainer": "rslave"}
    make = "mkdir -p $place" if source.is_dir() else "mkdir -p ${place%/*} && touch $place"
    lines = [
        f"place=root$(chroot root realpath -m {target})",  # /var/run is a link
        f"[ -e $place ] || {{ {make}; }}",
        f"mount --rbind {source} $place",
        f"mount --make-{kinds[propagation]} $place",
    ]
    return lines + (["mount -o remount,bind,ro $place"] if is_read_only else [])


def _bounding_set(security: Mapping[str, Any]) -> str:
    if security.get("privileged"):
        return "+all"
    assert security["capabilities"]["drop"] == ["ALL"]
    return ",".join(
        ["-all", *(f"+{name.lower()}" for name in security["capabilities"].get("add", ()))]
    )
