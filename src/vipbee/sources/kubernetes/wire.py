# SPDX-License-Identifier: Apache-2.0
"""Bytes of the API ↔ objects: pages of a list, lines of a watch, Status. No I/O.

A page is decoded in one pass; only if that fails its items are looked at one by one, so
that one object that is not as expected costs that object only.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from vipbee.collection import collection_paused
from vipbee.model import ApiObject, EndpointSlice, Node, Problem, Service, ServiceCIDR
from vipbee.sources.events import ObjectName
from vipbee.sources.kubernetes.api_errors import Malformed, Refused, refused
from vipbee.sources.kubernetes.resources import Resource
from vipbee.sources.sharing import share

MAX_LINE_BYTES = 64 << 20
"""etcd takes objects of 1.5 MB; a line beyond this has no end."""

_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

Item = TypeVar("Item")


class _ListMeta(Struct, rename="camel"):
    resource_version: str = ""
    continue_: str | None = msgspec.field(name="continue", default=None)


class _ListOf(Struct, Generic[Item]):
    metadata: _ListMeta
    items: list[Item] | None = None


class _Event(Struct):
    type: str
    object: Raw


class _NameMeta(Struct, gc=False):
    name: str
    namespace: str = "default"  # as in model.ObjectMeta


class _Named(Struct, gc=False):
    metadata: _NameMeta


class _VersionMeta(Struct, rename="camel", gc=False):
    resource_version: str = ""


class _Versioned(Struct, gc=False):
    metadata: _VersionMeta


class _Cause(Struct):
    reason: str = ""


class _Details(Struct, rename="camel"):
    causes: list[_Cause] | None = None
    retry_after_seconds: float = 0


class _Status(Struct):
    message: str = ""
    reason: str = ""
    code: int = 0
    details: _Details | None = None


_TYPES: tuple[type[ApiObject], ...] = (Service, EndpointSlice, Node, ServiceCIDR)
_objects = {kind: msgspec.json.Decoder(kind) for kind in _TYPES}
_pages: dict[type[ApiObject], msgspec.json.Decoder[Any]] = {
    Service: msgspec.json.Decoder(_ListOf[Service]),
    EndpointSlice: msgspec.json.Decoder(_ListOf[EndpointSlice]),
    Node: msgspec.json.Decoder(_ListOf[Node]),
    ServiceCIDR: msgspec.json.Decoder(_ListOf[ServiceCIDR]),
}
_raw_page = msgspec.json.Decoder(_ListOf[Raw])
_event = msgspec.json.Decoder(_Event)
_named = msgspec.json.Decoder(_Named)
_versioned = msgspec.json.Decoder(_Versioned)
_status = msgspec.json.Decoder(_Status)


@dataclass(slots=True)
class Page:
    """Some objects of a list; more follow if there is a `token`."""

    resource_version: str
    token: str | None
    objects: dict[ObjectName, ApiObject]
    broken: dict[ObjectName, Problem] = field(default_factory=dict)


@dataclass(slots=True)
class Batch:
    """What a few lines of a watch come to: the last word on each object; None: deleted.

    An object is in `objects` or, if it cannot be understood, in `broken`.
    """

    objects: dict[ObjectName, ApiObject | None] = field(default_factory=dict)
    broken: dict[ObjectName, Problem] = field(default_factory=dict)
    resource_version: str = ""  # "" if there was none

    def __bool__(self) -> bool:
        return bool(self.objects or self.broken or self.resource_version)


def name_of(kind: str, item: ApiObject) -> ObjectName:
    return ObjectName(kind, item.metadata.namespace, item.metadata.name)


def decode_page(resource: Resource, body: bytes) -> Page:
    """Raise Malformed if the answer is no list with a resourceVersion (F8)."""
    with collection_paused():
        try:
            listed = _pages[resource.type].decode(body)
        except _DECODE_ERRORS:
            page = _decode_items(resource, body)
        else:
            kind = resource.kind
            page = Page(
                listed.metadata.resource_version,
                listed.metadata.continue_ or None,
                {name_of(kind, item): item for item in listed.items or ()},
            )
            for item in page.objects.values():
                share(item)
    if not page.resource_version:
        raise Malformed(f"the list of {resource.plural} has no resourceVersion")
    return page


def _decode_items(resource: Resource, body: bytes) -> Page:
    try:
        listed = _raw_page.decode(body)
    except _DECODE_ERRORS as error:
        raise Malformed(f"the list of {resource.plural} is malformed: {error}") from None
    page = Page(listed.metadata.resource_version, listed.metadata.continue_ or None, {})
    for raw in listed.items or ():
        name, item, problem = _decode_object(resource, raw)
        if item is not None:
            page.objects[name] = item
        elif problem is not None:
            page.broken[name] = problem
    return page


def decode_events(resource: Resource, lines: list[bytes]) -> tuple[Batch, Exception | None]:
    """The batch up to the first line that ends the watch, and why it does."""
    batch = Batch()
    last: Raw | None = None
    failure: Exception | None = None
    for line in lines:
        try:
            event = _event.decode(line)
            if event.type == "ERROR":
                failure = _error_event(resource, event.object)
                break
            if event.type != "BOOKMARK":
                _note(resource, event, batch)
        except _DECODE_ERRORS as error:
            failure = Malformed(f"the watch of {resource.plural} sent a bad line: {error}")
            break
        last = event.object
    if last is not None:
        try:
            batch.resource_version = _versioned.decode(last).metadata.resource_version
        except _DECODE_ERRORS as error:
            failure = Malformed(f"the watch of {resource.plural} sent no version: {error}")
    return batch, failure


def _note(resource: Resource, event: _Event, batch: Batch) -> None:
    """Enter one event. Types that are not known say nothing we could do (F10)."""
    if event.type == "DELETED":  # its object may be of any version: only the name counts
        meta = _named.decode(event.object).metadata
        name = ObjectName(resource.kind, meta.namespace, meta.name)
        batch.broken.pop(name, None)
        batch.objects[name] = None
    elif event.type in ("ADDED", "MODIFIED"):
        name, item, problem = _decode_object(resource, event.object)
        if item is not None:
            batch.broken.pop(name, None)
            batch.objects[name] = item
        elif problem is not None:
            batch.objects.pop(name, None)
            batch.broken[name] = problem


def _decode_object(
    resource: Resource, raw: Raw
) -> tuple[ObjectName, ApiObject | None, Problem | None]:
    """An object or what is wrong with it; a DecodeError if it has not even a name."""
    try:
        item = _objects[resource.type].decode(raw)
    except _DECODE_ERRORS as error:
        try:
            meta = _named.decode(raw).metadata
        except _DECODE_ERRORS:
            raise msgspec.DecodeError(f"an object without a name: {error}") from None
        name = ObjectName(resource.kind, meta.namespace, meta.name)
        message = f"{_sentence(error)}; its last good state stays in force"
        return name, None, Problem(f"{name.kind} {name.namespace}/{name.name}", message, True)
    share(item)
    return name_of(resource.kind, item), item, None


def _sentence(error: Exception) -> str:
    """msgspec's message with the path first: "spec.ports[0].port: expected int"."""
    message, _, path = str(error).replace("`", "").partition(" - at ")
    message = message[:1].lower() + message[1:]
    return f"{path.removeprefix('$.')}: {message}" if path else message


def decode_status(
    code: int, body: bytes, *, what: str, retry_after_s: float | None = None
) -> Refused:
    """Error for an answer that is not 200; `body` may be anything."""
    status = _Status(code=code)
    try:
        status = _status.decode(body)
    except _DECODE_ERRORS:
        status.message = " ".join(body[:200].decode(errors="replace").split())
    return _refused(status, code, what, retry_after_s)


def _error_event(resource: Resource, raw: Raw) -> Refused:
    status = _status.decode(raw)
    return _refused(status, status.code or 500, f"watch {resource.plural}", None)


def _refused(status: _Status, code: int, what: str, retry_after_s: float | None) -> Refused:
    reason = status.reason
    details = status.details or _Details()
    if any(cause.reason == TOO_LARGE for cause in details.causes or ()):
        reason = TOO_LARGE
    return refused(
        code,
        f"{what}: {code} {status.message or reason or 'without a reason'}",
        reason=reason,
        retry_after_s=retry_after_s or details.retry_after_seconds or None,
    )


TOO_LARGE = "ResourceVersionTooLarge"
"""Cause in the Status of a server that has not come to our resourceVersion (yet, or any more)."""


class LineSplitter:
    """Cuts a stream of bytes at newlines, wherever the chunks end (F15)."""

    def __init__(self, max_bytes: int = MAX_LINE_BYTES) -> None:
        self._parts: list[bytes] = []
        self._held = 0
        self._max_bytes = max_bytes

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that are complete now, without blank ones."""
        head, newline, rest = chunk.partition(b"\n")
        if not newline:
            self._hold(chunk)
            return []
        lines = rest.split(b"\n")
        tail = lines.pop()
        lines.insert(0, b"".join([*self._parts, head]))
        self._parts.clear()
        self._held = 0
        self._hold(tail)
        return [line for line in lines if line.strip()]

    @property
    def held(self) -> int:
        """Bytes of a line that has not ended."""
        return self._held

    def _hold(self, part: bytes) -> None:
        if not part:
            return
        self._parts.append(part)
        self._held += len(part)
        if self._held > self._max_bytes:
            raise Malformed(f"a watch sent a line of more than {self._max_bytes >> 20} MiB")
