# SPDX-License-Identifier: Apache-2.0
"""One network namespace and one cgroup whose sockets run through the shipped hooks.

Backends are addresses on the namespace's loopback device and there is no other device,
so a test needs milliseconds to set up and nothing can leave. The datapath is the
product's own: loader, Desired, KernelTables.

    with Hooked.up() as hooked:
        hooked.serve()
        hooked.program(service_ports)
        answer = hooked.run(lambda: socket.create_connection(("10.96.0.10", 80)).getpeername())
"""

from __future__ import annotations

import contextlib
import ctypes as c
import fcntl
import os
import pickle
import select
import shutil
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from tests.support.servers import serve_names
from vipbee.abi import LAYOUT_VERSION, MapName, Reason
from vipbee.core.desired import Desired
from vipbee.datapath import pins
from vipbee.datapath.features import SIZED_MAPS, Features, probe_features
from vipbee.datapath.kernel import KernelTables
from vipbee.datapath.layouts import load_layouts
from vipbee.datapath.loader import Loaded, LoadRequest, load
from vipbee.datapath.mounts import find_cgroup_root
from vipbee.datapath.netns_cookie import netns_cookie
from vipbee.datapath.pins import PinDirectory
from vipbee.model import ServiceName, ServicePort

Result = TypeVar("Result")

V4 = tuple(f"10.244.1.{n}" for n in range(1, 10))
V6 = tuple(f"fd00:10:244:1::{n}" for n in range(1, 10))
NODE_V4, NODE_V6 = "172.30.0.1", "fd00:172:30::1"
ELSEWHERE_V4, ELSEWHERE_V6 = "192.0.2.1", "2001:db8:2::1"

_LIBC = c.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


class Child:
    """A forked process in the namespace and the cgroup; `stop` ends it."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class Hooked:
    """See the module. Built by `up`."""

    def __init__(self, name: str, sizes: dict[str, int], features: Features) -> None:
        self.name = name
        self.netns = Path("/run/netns") / name
        self.cgroup = find_cgroup_root() / name
        self.bpf_root = Path("/sys/fs/bpf") / name
        self.features = features
        self.sizes = sizes
        self.layouts = load_layouts()
        self.children: list[Child] = []
        self.netns_cookie = 0
        self.loaded: Loaded | None = None
        self.tables: KernelTables | None = None
        self.desired: Desired | None = None

    @classmethod
    @contextlib.contextmanager
    def up(
        cls,
        *,
        entries: int = 4096,
        sizes: dict[str, int] | None = None,
        features: Features | None = None,
        bind_protection: bool = False,
        loaded: bool = True,
    ) -> Iterator[Hooked]:
        """Clean up what a killed run left, set up, hand over, clean up.

        Names and tests that run at the same time: see `_claimed_name`.
        """
        all_sizes = {**dict.fromkeys(SIZED_MAPS, entries), **(sizes or {})}
        with _claimed_name() as name:
            hooked = cls(name, all_sizes, features or probe_features())
            hooked.down()
            try:
                hooked._set_up()
                if loaded:
                    hooked.load(bind_protection=bind_protection)
                yield hooked
            finally:
                hooked.down()

    def _set_up(self) -> None:
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        commands = ["link set lo up"]
        commands += [f"addr add {a}/32 dev lo" for a in (*V4, NODE_V4, ELSEWHERE_V4)]
        commands += [f"addr add {a}/128 dev lo nodad" for a in (*V6, NODE_V6, ELSEWHERE_V6)]
        subprocess.run(
            ["ip", "-n", self.name, "-batch", "-"],
            input="\n".join(commands),
            text=True,
            check=True,
        )
        self.cgroup.mkdir()

    def request(self, *, bind_protection: bool = False) -> LoadRequest:
        """What the agent would ask the loader for."""
        if not self.netns_cookie:
            self.netns_cookie = self.run(netns_cookie)
        return LoadRequest(
            bpf_root=self.bpf_root,
            cgroup_root=self.cgroup,
            sizes=self.sizes,
            features=self.features,
            node_netns_cookie=self.netns_cookie,
            bind_protection=bind_protection,
        )

    def load(self, *, bind_protection: bool = False) -> Loaded:
        """Start (again), as the agent does."""
        request = self.request(bind_protection=bind_protection)
        pins.prepare_root(self.bpf_root)
        with pins.exclusive(self.bpf_root):
            self.loaded = load(request)
        if self.tables is not None:
            self.tables.close()
        self.tables = KernelTables(self.loaded.directory, self.layouts)
        self.desired = Desired(self.layouts, self.tables.capacity)
        if self.loaded.adopted:
            self.tables.renew_address_filter()
            self.desired.adopt(self.tables.snapshot())
        return self.loaded

    def serve(self) -> Child:
        """Start a server on every backend address, see tests/support/servers.py."""
        return self.start(lambda ready: serve_names(ready, (*V4, *V6)))

    @property
    def directory(self) -> PinDirectory:
        return PinDirectory(self.bpf_root / LAYOUT_VERSION)

    def program(
        self,
        ports: Sequence[ServicePort],
        *,
        gone: Sequence[ServiceName] = (),
        node_addresses: dict[bytes, int] | None = None,
    ) -> int:
        """Program these Service ports (all of their Services); returns entries written."""
        return self._program(ports, gone, node_addresses, only=False)

    def program_only(
        self, *ports: ServicePort, node_addresses: dict[bytes, int] | None = None
    ) -> int:
        """Program exactly these Service ports; everything else goes, also what was adopted."""
        return self._program(ports, (), node_addresses, only=True)

    def _program(
        self,
        ports: Sequence[ServicePort],
        gone: Sequence[ServiceName],
        node_addresses: dict[bytes, int] | None,
        *,
        only: bool,
    ) -> int:
        assert self.desired is not None
        assert self.tables is not None
        by_service: dict[ServiceName, list[ServicePort]] = {name: [] for name in gone}
        for port in ports:
            by_service.setdefault(port.key.service, []).append(port)
        written = 0
        plan = self.desired.full if only else self.desired.update
        for operation in plan(by_service, node_addresses):
            self.tables.apply(operation)
            written += len(operation)
        return written

    def audit(self) -> int:
        """Compare and repair; returns entries written."""
        assert self.desired is not None
        assert self.tables is not None
        repairs = self.desired.audit(self.tables.snapshot())
        for operation in repairs:
            self.tables.apply(operation)
        return sum(len(operation) for operation in repairs)

    # ---- what the datapath counted ------------------------------------------------------

    def service_id(self, name: str) -> int:
        """The id of the only Service port of Service default/name."""
        assert self.tables is not None
        ids, infos = self.tables.read_hash(MapName.SERVICES)
        (found,) = ids[infos["name"] == name.encode()]
        return int(found)

    def counters(self, name: str) -> dict[str, int]:
        """`struct service_counters` of a Service with one port and family."""
        assert self.tables is not None
        row = self.tables.read_array(MapName.SERVICE_COUNTERS)[self.service_id(name)]
        return {field: int(row[field]) for field in row.dtype.names if field != "pad"}

    def backend_counters(self, name: str) -> np.ndarray:
        """`struct backend_counters` of a Service's backends."""
        assert self.tables is not None
        mine = self.tables.read_array(MapName.BACKENDS)["service_id"] == self.service_id(name)
        return self.tables.read_array(MapName.BACKEND_COUNTERS)[mine]

    def reasons(self) -> dict[Reason, int]:
        assert self.tables is not None
        totals = self.tables.read_reasons()
        return {reason: int(totals[reason]) for reason in Reason}

    # ---- processes in it ---------------------------------------------------------------

    def _fork(
        self, action: Callable[[], None], *, new_netns: bool = False, in_cgroup: bool = True
    ) -> Child:
        pid = os.fork()
        if pid:
            child = Child(pid)
            self.children.append(child)
            return child
        status = 1
        try:
            if in_cgroup:
                (self.cgroup / "cgroup.procs").write_text(str(os.getpid()))
            fd = os.open(self.netns, os.O_RDONLY)
            if _LIBC.setns(fd, _CLONE_NEWNET):
                raise OSError(c.get_errno(), "setns")
            os.close(fd)
            if new_netns and _LIBC.unshare(_CLONE_NEWNET):
                raise OSError(c.get_errno(), "unshare")
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def run(
        self, action: Callable[[], Result], *, timeout_s: float = 20.0, new_netns: bool = False
    ) -> Result:
        """Run `action` in the namespace and cgroup, in a process of its own; its result.

        An exception it raises is raised here. With `new_netns` it runs in a fresh, empty
        network namespace but under the same hooks.
        """
        reader, writer = os.pipe()

        def wrapped() -> None:
            os.close(reader)
            try:
                outcome: tuple[bool, object] = (True, action())
            except BaseException as error:
                outcome = (False, error)
            with open(writer, "wb") as pipe:
                pickle.dump(outcome, pipe)

        child = self._fork(wrapped, new_netns=new_netns)
        os.close(writer)
        deadline = time.monotonic() + timeout_s
        data = b""
        with open(reader, "rb", buffering=0) as pipe:
            while select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                chunk = pipe.read(65536)
                if not chunk:
                    break
                data += chunk
        child.stop()
        self.children.remove(child)
        if not data:
            raise TimeoutError(f"no result within {timeout_s} s")
        succeeded, result = pickle.loads(data)
        if not succeeded:
            raise result
        return result

    def start(
        self,
        serve: Callable[[Callable[[], None]], None],
        *,
        new_netns: bool = False,
        in_cgroup: bool = True,
    ) -> Child:
        """Run `serve(ready)` in the background; returns once it has called `ready()`.

        Out of the cgroup it is like a host elsewhere: no hook runs for it.
        """
        reader, writer = os.pipe()

        def wrapped() -> None:
            os.close(reader)

            def ready() -> None:
                os.write(writer, b"1")
                os.close(writer)

            serve(ready)

        child = self._fork(wrapped, new_netns=new_netns, in_cgroup=in_cgroup)
        os.close(writer)
        try:
            if not select.select([reader], [], [], 10)[0] or os.read(reader, 1) != b"1":
                raise TimeoutError("the server did not start")
        finally:
            os.close(reader)
        return child

    def down(self) -> None:
        """Remove everything of this name, also what another process left."""
        for child in self.children:
            child.stop()
        self.children.clear()
        if self.tables is not None:
            self.tables.close()
            self.tables = None
        if self.cgroup.is_dir():
            for pid in (self.cgroup / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            deadline = time.monotonic() + 5
            while (self.cgroup / "cgroup.procs").read_text() and time.monotonic() < deadline:
                time.sleep(0.01)
            self.cgroup.rmdir()
        for path in (self.bpf_root, *self.bpf_root.parent.glob(f"{self.name}-*")):
            if path.is_symlink():
                path.unlink()
            elif path.is_dir():
                shutil.rmtree(path)
        if self.netns.exists():
            subprocess.run(["ip", "netns", "del", self.name], check=True)


@contextlib.contextmanager
def _claimed_name() -> Iterator[str]:
    """A name nobody else uses now, low numbers first: so the next run finds leftovers."""
    for number in range(64):
        fd = os.open(f"/run/lock/vipbee-hooked-{number}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            continue
        try:
            yield f"vipbee-hooked-{number}"
        finally:
            os.close(fd)
        return
    raise RuntimeError("64 test runs at once")
