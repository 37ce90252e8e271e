# SPDX-License-Identifier: Apache-2.0
"""Gathers the objects of one file, whatever the notation and the shape they come in.

A bad object becomes a Problem under its own name and never takes others with it; a
document of no known shape raises SourceError. Types are checked here, values (port
ranges, protocols, addresses) by core. Must not read files.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Raw, Struct

from vipbee.errors import ObjectError, SourceError
from vipbee.model import ApiObject, EndpointSlice, Node, Problem, Service, ServiceCIDR

SECTIONS = {"services": "Service", "endpoints": "EndpointSlice", "nodes": "Node"}
"""Section of the state file → kind of the objects in it."""

_TYPES: dict[str, type[ApiObject]] = {
    "Service": Service,
    "EndpointSlice": EndpointSlice,
    "Node": Node,
    "ServiceCIDR": ServiceCIDR,
}
_VERSIONS = {
    "Service": "v1",
    "EndpointSlice": "discovery.k8s.io/v1",
    "Node": "v1",
    "ServiceCIDR": "networking.k8s.io/v1",
}
_CLUSTER_WIDE = frozenset(("Node", "ServiceCIDR"))
_LIST_KINDS = {"List": None, **{f"{kind}List": kind for kind in _TYPES}}

# What msgspec raises on one bad object; the last two from strings and from deep nesting.
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_SUBDOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Decoded:
    """Everything one file says. `ignored` counts objects of other kinds."""

    objects: tuple[ApiObject, ...]
    problems: tuple[Problem, ...]
    ignored: int = 0


class _Header(Struct, gc=False):
    kind: str | None = None
    apiVersion: str | None = None


class _Meta(Struct, gc=False):
    name: str
    namespace: str = "default"


class _Named(Struct, gc=False):
    metadata: _Meta


class Notation(Struct, frozen=True):
    """How to turn a node (raw JSON, or a YAML value) into a type."""

    convert: Callable[[Any, Any], Any]
    mapping: Any
    items: Any


def _json_notation() -> Notation:
    decoders = {type_: msgspec.json.Decoder(type_) for type_ in (_Header, _Named, *_TYPES.values())}

    def convert(node: Any, type_: Any) -> Any:
        decoder = decoders.get(type_)
        return decoder.decode(node) if decoder else msgspec.json.decode(node, type=type_)

    return Notation(convert, dict[str, Raw], list[Raw])


JSON = _json_notation()
YAML = Notation(msgspec.convert, dict[str, Any], list[Any])


@dataclass(slots=True)
class Collector:
    """Gathers the objects of one file."""

    source: str
    should_stop: Callable[[], bool]
    objects: dict[tuple[str, str, str], ApiObject] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    ignored: int = 0
    has_document: bool = False
    counts: dict[str, int] = field(default_factory=dict)

    def decoded(self) -> Decoded:
        if not self.objects and not self.problems and self.ignored:
            message = f"no Service, EndpointSlice or Node among {self.ignored} objects"
            self.problems.append(Problem(self.source, message, is_error=False))
        return Decoded(tuple(self.objects.values()), tuple(self.problems), self.ignored)

    def adopt(self, other: Collector) -> None:
        """Take over what `other` gathered, after what is here."""
        for key, value in other.objects.items():
            self._store(key, value)
        self.problems += other.problems
        self.ignored += other.ignored
        self.has_document |= other.has_document

    def add_document(self, node: Any, notation: Notation, *, line: int) -> bool:
        """Add one document of any accepted shape; raise SourceError if it has none.

        False if it is a single object, so that what lists it has are its own business.
        """
        self.has_document = True
        where = f"{self.source} line {line}"
        try:
            fields = notation.convert(node, notation.mapping)
        except msgspec.ValidationError as error:
            expected = "services:, endpoints:, nodes: or kind:"
            raise SourceError(f"{where}: want a mapping with {expected} ({error})") from None
        try:
            kind = notation.convert(node, _Header).kind
        except msgspec.ValidationError as error:
            raise SourceError(f"{where}: {_reason(error)}") from None
        # an EndpointSlice has a field `endpoints` of its own
        if kind not in _TYPES and not fields.keys().isdisjoint(SECTIONS):
            self._add_sections(fields, notation, where)
            return True
        if kind is None:
            given = ", ".join(ascii(name) for name in list(fields)[:5]) or "nothing"
            raise SourceError(
                f"{where}: want services:, endpoints:, nodes: or kind:, found {given}"
            )
        if kind in _LIST_KINDS:
            for item in self._items(fields, "items", notation, where):
                self.add("items", item, notation, kind=_LIST_KINDS[kind])
            return True
        self.add("documents", node, notation, kind=None)
        return False

    def _add_sections(self, fields: dict[str, Any], notation: Notation, where: str) -> None:
        for name in fields:
            if name in SECTIONS:
                for item in self._items(fields, name, notation, where):
                    self.add(name, item, notation, kind=SECTIONS[name])
            elif name not in ("apiVersion", "kind", "metadata"):
                message = f"unknown field {name!r} is ignored; known: {', '.join(SECTIONS)}"
                self.problems.append(Problem(self.source, message, is_error=False))

    def _items(self, fields: dict[str, Any], name: str, notation: Notation, where: str) -> Any:
        """List under `name`; a section that is absent or null is empty."""
        if name not in fields:
            return ()
        try:
            return notation.convert(fields[name], notation.items | None) or ()
        except msgspec.ValidationError as error:
            raise SourceError(f"{where}: {name}: {_reason(error)}") from None

    # ---- one object --------------------------------------------------------------

    def add(self, section: str, node: Any, notation: Notation, *, kind: str | None) -> None:
        """Add one object. `kind` is what an object that does not say is taken for."""
        if self.should_stop():
            raise SourceError(f"{self.source}: reading was interrupted")
        index = self.counts.get(section, 0)
        self.counts[section] = index + 1
        wanted = kind
        try:
            header = notation.convert(node, _Header)
            wanted = header.kind or kind
            if wanted is None:
                raise ObjectError("", "has no kind")
            if section in SECTIONS and wanted != kind:
                raise ObjectError("", f"is no {kind}: only those belong under {section}:")
            if not _is_known(wanted, header.apiVersion):
                self.ignored += 1
                return
            value: ApiObject = notation.convert(node, _TYPES[wanted])
            meta = value.metadata
            # The model gives what has no namespace one that means nothing.
            namespace = "" if wanted in _CLUSTER_WIDE else meta.namespace
            _check_name(wanted, namespace, meta.name)
        except (ObjectError, *_DECODE_ERRORS) as error:
            label = _label(wanted, node, notation) or f"{section}[{index}] of {self.source}"
            self.problems.append(Problem(label, _reason(error), is_error=True))
            return
        self._store((wanted, namespace, meta.name), value)

    def _store(self, key: tuple[str, str, str], value: ApiObject) -> None:
        if key in self.objects:
            kind, namespace, name = key
            label = f"{kind} {namespace}/{name}" if namespace else f"{kind} {name}"
            message = f"given more than once in {self.source}: the first is used"
            self.problems.append(Problem(label, message, is_error=False))
            return
        self.objects[key] = value


def _is_known(kind: str, version: str | None) -> bool:
    """Whether this is an object we read; a `Service` may also be Knative's, for one."""
    if kind not in _TYPES:
        return False
    if not version or version == _VERSIONS[kind]:
        return True
    group = _VERSIONS[kind].rpartition("/")[0]
    if group and version.startswith(f"{group}/"):
        raise ObjectError("", f"apiVersion {version} is not supported: use {_VERSIONS[kind]}")
    return False


def _check_name(kind: str, namespace: str, name: str) -> None:
    """Refuse what is no name in Kubernetes: names end up in maps, tables and logs."""
    if kind not in _CLUSTER_WIDE and not _LABEL.fullmatch(namespace):
        raise ObjectError("", f"metadata.namespace: {namespace!a} is not a DNS label")
    if kind == "Service" and not _LABEL.fullmatch(name):
        what = "a DNS label (a-z, 0-9 and '-', at most 63)"
        raise ObjectError("", f"metadata.name: {name!a} is not {what}")
    if not _SUBDOMAIN.fullmatch(name):
        what = "a DNS name (a-z, 0-9, '-' and '.', at most 253)"
        raise ObjectError("", f"metadata.name: {name!a} is not {what}")


def _label(kind: str | None, node: Any, notation: Notation) -> str | None:
    """'Service default/web', read leniently, for messages."""
    try:
        meta = notation.convert(node, _Named).metadata
    except _DECODE_ERRORS:
        return None
    name = meta.name if kind in _CLUSTER_WIDE else f"{meta.namespace}/{meta.name}"
    if not (name.isascii() and name.isprintable()):
        name = ascii(name)
    return f"{kind} {name}" if kind else name


def _reason(error: Exception) -> str:
    """One sentence, path first: "spec.ports[0].port: expected int, got str"."""
    if isinstance(error, ObjectError):
        return error.reason
    if isinstance(error, UnicodeDecodeError):
        return "is not valid UTF-8"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    message, _, path = str(error).replace("`", "").partition(" - at ")
    message = message.removeprefix("Object ").removeprefix("JSON is malformed: ")
    message = message[:1].lower() + message[1:]
    path = path.removeprefix("$").removeprefix(".")
    return f"{path}: {message}" if path else message
