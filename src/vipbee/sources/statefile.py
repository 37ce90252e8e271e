# SPDX-License-Identifier: Apache-2.0
"""The state file, or a directory of them, as a source of objects.

Polling `stat`, not inotify: it also sees through symlinks (the swap a ConfigMap
makes), network file systems and bind mounts, and costs 2 µs a file. A file is read
only when its identity changed, and not before it has been left alone for
`SETTLE_S`, so that a half-written one is hardly ever seen; if it is, it either does
not parse, which keeps the last good state, or changes again, which reads it again.

Must not decide what a change means: it delivers each file whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import threading
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path

from vipbee.errors import SourceError
from vipbee.sources.decode import Decoded, decode_objects
from vipbee.sources.events import Failed, Loaded, Removed, SourceEvent, Synced
from vipbee.sources.files import OWN_RIGHTS, Files, FileState

SETTLE_S = 0.05
MAX_DEFERRALS = 3
"""Polls for which a file that keeps changing is left alone; then it is read as it is."""
DEFAULT_MAX_BYTES = 256 << 20


@dataclass(slots=True)
class _File:
    identity: FileState | None = None  # of the content last taken or refused
    digest: bytes = b""
    decoded: Decoded | None = None  # last good
    failure: str | None = None  # reported, and not over yet
    seen: FileState | None = None  # when last left alone to settle
    deferrals: int = 0


class StateFileSource:
    """Watches `path`: a file, or a directory of *.yaml, *.yml and *.json.

    Directories are not searched recursively; hidden files are not read. `clock_ns` is
    compared with ctime, so it must be the wall clock (replaced in tests only).
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        poll_interval_s: float = 0.2,
        max_bytes: int = DEFAULT_MAX_BYTES,
        files: Files = OWN_RIGHTS,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._path = Path(path)
        self._poll_interval_s = poll_interval_s
        self._max_bytes = max_bytes
        self._disk = files
        self._clock_ns = clock_ns
        self._files: dict[str, _File] = {}
        self._listing_failure: str | None = None
        self._is_synced = False
        self._is_deferring = False
        self._stop = threading.Event()

    async def watch(self) -> AsyncGenerator[SourceEvent, None]:
        """Yield events for ever; polls in a thread, as decoding YAML takes a while."""
        try:
            while True:
                started = time.monotonic()
                events = await asyncio.to_thread(self.poll)
                took = time.monotonic() - started
                for event in events:
                    yield event
                # a poll that read something says nothing about what looking costs
                await asyncio.sleep(self._pause_s(0.0 if events else took))
        finally:
            self._stop.set()  # a poll still running in its thread ends at the next object

    def poll(self) -> list[SourceEvent]:
        """Look once; return what changed since the last call. Blocks while it reads."""
        self._is_deferring = False
        events: list[SourceEvent] = []
        try:
            names = self._listing()
        except OSError as error:
            self._fail_listing(error, events)
            return events
        if self._listing_failure is not None and str(self._path) not in names:
            events.append(Removed(str(self._path)))
        self._listing_failure = None
        for name in [name for name in self._files if name not in names]:
            del self._files[name]
            events.append(Removed(name))
        for name in names:
            event = self._look_at(name, self._files.setdefault(name, _File()))
            if event is not None:
                events.append(event)
        if not self._is_synced and self._is_complete():
            self._is_synced = True
            events.append(Synced())
        return events

    # ---- which files ---------------------------------------------------------------

    def _listing(self) -> dict[str, None]:
        """Names of the files to read, sorted; raise OSError if that is not known."""
        if not stat.S_ISDIR(self._disk.state(self._path).mode):
            return {str(self._path): None}
        found = [os.path.join(self._path, name) for name in self._disk.names(self._path)]
        return dict.fromkeys(sorted(found))

    def _fail_listing(self, error: OSError, events: list[SourceEvent]) -> None:
        """The path itself is unusable: nothing is known, so nothing is removed."""
        was_there = bool(self._files)
        what = "has disappeared" if was_there and isinstance(error, FileNotFoundError) else None
        reason = f"{self._path} {what or f'cannot be read: {error.strerror}'}"
        if was_there:
            reason += "; the last good state stays in force"
        elif not self._is_synced:
            reason += "; waiting for it"
        if reason != self._listing_failure:
            self._listing_failure = reason
            events.append(Failed(str(self._path), SourceError(reason)))
        for file in self._files.values():  # so that each is read and sent when it is back
            file.identity, file.failure = None, reason

    def _is_complete(self) -> bool:
        files = self._files.values()
        if any(file.decoded is None and file.failure is None for file in files):
            return False  # deferred
        return not files or any(file.decoded is not None for file in files)

    # ---- one file --------------------------------------------------------------------

    def _look_at(self, name: str, file: _File) -> SourceEvent | None:
        try:
            identity = self._disk.state(name)
            if identity == file.identity or self._must_settle(file, identity):
                return None
            data = self._read(name)
        except OSError as error:
            return _failed(name, file, f"{name} cannot be read: {error.strerror}")
        except SourceError as error:
            file.identity = identity
            return _failed(name, file, str(error))
        if data is None:
            self._is_deferring = True
            return None
        file.identity = identity
        return self._decode(name, file, data)

    def _must_settle(self, file: _File, identity: FileState) -> bool:
        """Whether to leave a file alone that changed a moment ago, or is changing still."""
        age_s = (self._clock_ns() - identity.ctime_ns) / 1e9
        if identity == file.seen or not 0 <= age_s < SETTLE_S:
            file.deferrals = 0
            return False
        file.seen = identity
        file.deferrals += 1
        if file.deferrals > MAX_DEFERRALS:
            return False
        self._is_deferring = True
        return True

    def _read(self, name: str) -> bytes | None:
        """Content of the file; None if it changed meanwhile."""
        descriptor = self._disk.open(name)
        with open(descriptor, "rb", buffering=0) as opened:
            before = FileState.of(os.fstat(descriptor))
            if not stat.S_ISREG(before.mode):
                raise SourceError(f"{name} is not a regular file")
            if before.size > self._max_bytes:
                raise SourceError(
                    f"{name} has {before.size >> 20} MiB, more than the"
                    f" {self._max_bytes >> 20} MiB accepted: split it into a directory of files"
                )
            data = opened.read(before.size + 1)
            after = FileState.of(os.fstat(descriptor))
        is_stable = before == after == self._disk.state(name)
        return data if is_stable and len(data) == before.size else None

    def _decode(self, name: str, file: _File, data: bytes) -> SourceEvent | None:
        """Event for new content; None if it says what the file said before."""
        digest = hashlib.blake2b(data, digest_size=16).digest()
        if digest == file.digest and file.decoded is not None and file.failure is None:
            return None
        try:
            decoded = decode_objects(data, source=name, should_stop=self._stop.is_set)
        except SourceError as error:
            return _failed(name, file, str(error))
        is_same = decoded == file.decoded and file.failure is None
        file.digest, file.decoded, file.failure = digest, decoded, None
        if is_same:
            return None
        return Loaded(name, decoded.objects, decoded.problems, decoded.ignored)

    def _pause_s(self, poll_took_s: float) -> float:
        """Seconds until the next poll: soon if a file settles, later if polls are slow.

        Ten thousand files take 30 ms to look at; a tenth of one CPU is enough for that.
        """
        if self._is_deferring:
            return min(SETTLE_S, self._poll_interval_s)
        return min(max(self._poll_interval_s, 9 * poll_took_s), 0.6)


def _failed(name: str, file: _File, reason: str) -> Failed | None:
    """Event for a failure, unless it is the one already reported."""
    if file.decoded is not None:
        reason += "; the last good state stays in force"
    if reason == file.failure:
        return None
    file.failure = reason
    return Failed(name, SourceError(reason))
