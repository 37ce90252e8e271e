# SPDX-License-Identifier: Apache-2.0
"""Text and YAML values → typed settings. Each reader takes the option's name and a value.

Flags give text, files give text, numbers, booleans or lists; both are read by the
same functions. UsageError names the option and says what it wants. Digits are ASCII.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from vipbee.address import UNSPECIFIED_V4, UNSPECIFIED_V6, format_address, parse_address
from vipbee.config.map_sizes import MapSizes
from vipbee.core.allowed_addresses import Networks
from vipbee.errors import UsageError

Cidr = ipaddress.IPv4Network | ipaddress.IPv6Network
LogFormat = Literal["text", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

_NODE_NAME = re.compile(r"(?=.{1,253}$)[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?", re.ASCII)
_DEVICE = re.compile(r"[^\s/:,+]{1,15}|[^\s/:,+]{0,14}\+", re.ASCII)
_URL = re.compile(r"https?://[^\s/@?#]+(?:/[^\s?#]*)?", re.ASCII)
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_DURATION = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?|(?:[0-9]{1,9}(?:\.[0-9]{1,9})?[smh]){1,3}")
_DURATION_PART = re.compile(r"([0-9.]+)([smh]?)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


class BindAddress(NamedTuple):
    """Where to listen: text of an IP address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class NodePortAddresses:
    """Node addresses that NodePorts are served on: `primary`, or those within `cidrs`."""

    cidrs: tuple[Cidr, ...] = ()

    @property
    def is_primary(self) -> bool:
        return not self.cidrs

    def __str__(self) -> str:
        """The option's text again: `primary`, or CIDRs with commas."""
        return ",".join(map(str, self.cidrs)) or "primary"


PRIMARY = NodePortAddresses()


def text(option: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(f"{option} wants a text, not {value!r}")
    return value.strip()


def text_or_number(option: str, value: Any) -> str:
    """Text; YAML reads a user's number as a number."""
    return str(value) if type(value) is int and value >= 0 else text(option, value)


def boolean(option: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise UsageError(f"{option} wants true or false, not {value!r}")
    return value


def path(option: str, value: Any) -> Path:
    if isinstance(value, Path):
        return value
    return Path(text(option, value))


def absolute_path(option: str, value: Any) -> Path:
    result = path(option, value)
    if not result.is_absolute():
        raise UsageError(f"{option} wants an absolute path, not {str(result)!r}")
    return result


def seconds(option: str, value: Any) -> float:
    """A number of seconds, or text like `30s`, `2h4m0s`; at least one second."""
    match = _DURATION.fullmatch(str(value)) if not isinstance(value, bool) else None
    parts = _DURATION_PART.findall(match[0]) if match else []
    result = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if result < 1:
        raise UsageError(f"{option} wants a duration of at least 1s, like 60s or 5m, not {value!r}")
    return result


def count(option: str, value: Any) -> int:
    """0 or more."""
    if type(value) is not int or not 0 <= value <= 1 << 20:
        raise UsageError(f"{option} wants a number from 0 to {1 << 20}, not {value!r}")
    return value


def node_name(option: str, value: Any) -> str:
    """As kube-proxy reads it: in lower case, without blanks around."""
    name = text(option, value).lower()
    if not _NODE_NAME.fullmatch(name):
        raise UsageError(f"{option} wants a node name (a-z, 0-9, '-' and '.'), not {value!r}")
    return name


def words(option: str, value: Any) -> tuple[str, ...]:
    """A list, or text with commas, without empty entries."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise UsageError(f"{option} wants a list of texts, not {value!r}")
    return tuple(stripped for part in parts if (stripped := part.strip()))


def urls(option: str, value: Any) -> tuple[str, ...]:
    """Addresses of API servers; a path behind the port is kept."""
    given = words(option, value)
    for url in given:
        if not _URL.fullmatch(url):
            raise UsageError(f"{option} wants addresses like https://10.0.0.1:6443, not {url!r}")
    return tuple(url.rstrip("/") for url in given)


def devices(option: str, value: Any) -> tuple[str, ...]:
    """Device names; one `+` at the end stands for any rest, as in iptables."""
    names = words(option, value)
    for name in names:
        if not _DEVICE.fullmatch(name):
            raise UsageError(f"{option} wants device names like eth0 or eth+, not {name!r}")
    return names


def device(option: str, value: Any) -> str:
    """One name, or the beginning of names."""
    (name, *more) = devices(option, value) or ("",)
    if more or not name or name.endswith("+"):
        raise UsageError(f"{option} wants one device name like cni0, not {value!r}")
    return name


def node_address(option: str, value: Any) -> bytes | None:
    """16 bytes; None for the wildcards, which leave the choice to the Node object."""
    try:
        address = parse_address(text(option, value))
    except ValueError:
        raise UsageError(f"{option} wants an address like 192.0.2.7, not {value!r}") from None
    return None if address in (UNSPECIFIED_V4, UNSPECIFIED_V6) else address


def cidrs(option: str, value: Any) -> tuple[Cidr, ...]:
    """Networks; an address without prefix length is refused, host bits are cleared."""
    result = []
    for word in words(option, value):
        try:
            if "/" not in word:
                raise ValueError
            result.append(ipaddress.ip_network(word, strict=False))
        except ValueError:
            raise UsageError(
                f"{option} wants CIDRs like 10.0.0.0/8 or fd00::/8, not {word!r}"
            ) from None
    return tuple(result)


def networks(option: str, value: Any) -> Networks:
    """`true` for every address, `false` for none, or CIDRs."""
    if isinstance(value, bool):
        return Networks(None if value else ())
    if value in ("true", "false"):
        return networks(option, value == "true")
    return Networks(cidrs(option, value))


def node_port_addresses(option: str, value: Any) -> NodePortAddresses:
    given = words(option, value)
    if not given or given == ("primary",):
        return NodePortAddresses()
    if "primary" in given:
        raise UsageError(f"{option} wants either primary or CIDRs, not both")
    return NodePortAddresses(cidrs(option, given))


def bind_address(option: str, value: Any, *, default_port: int) -> BindAddress | None:
    """`IP:port`, `[IPv6]:port`, `:port` (every IPv4 address) or an IP alone; "" is None."""
    if value == "":
        return None
    given = text(option, value)
    host, port = _split_port(given, default_port)
    try:
        address = format_address(parse_address(host or "0.0.0.0"))
    except ValueError:
        address = ""
    number = int(port) if _PORT.fullmatch(port) else 0
    if not address or not 1 <= number <= 65535:
        raise UsageError(f"{option} wants IP:port like 0.0.0.0:{default_port}, not {value!r}")
    return BindAddress(address, number)


def _split_port(given: str, default_port: int) -> tuple[str, str]:
    """Host and port as text, as far as the brackets and colons tell."""
    if given.startswith("["):
        host, bracket, rest = given[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            return "?", "?"
        return host, rest[1:] if rest else str(default_port)
    if given.count(":") == 1:
        host, _, port = given.partition(":")
        return host, port
    return given, str(default_port)


def log_format(option: str, value: Any) -> LogFormat:
    match value:
        case "text":
            return "text"
        case "json":
            return "json"
    raise UsageError(f"{option} wants text or json, not {value!r}")


def log_level(option: str, value: Any) -> LogLevel:
    level = value.lower() if isinstance(value, str) else value
    match level:
        case "debug" | "info" | "warning" | "error":
            return level
        case "warn":
            return "warning"
    raise UsageError(f"{option} wants debug, info, warning or error, not {value!r}")


def mass_delete_guard(option: str, value: Any) -> Mapping[str, float]:
    """Fields of sources' MassDeleteGuard: `false`, or any of share, minimum and hold."""
    if value is False:
        return {"hold_s": 0.0}
    if value is True:
        return {}
    if not isinstance(value, Mapping):
        raise UsageError(
            f"{option} wants false, or like {{share: 0.5, minimum: 20, hold: 5m}}, not {value!r}"
        )
    result: dict[str, float] = {}
    for name, given in value.items():
        is_number = isinstance(given, int | float) and not isinstance(given, bool)
        if name == "hold":
            result["hold_s"] = seconds(f"{option}: hold", given)
        elif name == "share" and is_number and 0 < given <= 1:
            result["share"] = float(given)
        elif name == "minimum" and type(given) is int and given >= 0:
            result["minimum"] = given
        else:
            raise UsageError(
                f"{option} wants share (0 to 1), minimum (objects) and hold (like 5m),"
                f" not {name}: {given!r}"
            )
    return result


def map_sizes(option: str, value: Any) -> Mapping[str, int]:
    """Overrides for MapSizes, by name of the map."""
    if not isinstance(value, Mapping):
        raise UsageError(f"{option} wants a mapping of map names to sizes, not {value!r}")
    for name, size in value.items():
        if name not in MapSizes.names():
            known = ", ".join(MapSizes.names())
            raise UsageError(f"{option} knows no map {name!r}: there are {known}")
        if type(size) is not int or not 16 <= size <= 1 << 26:
            raise UsageError(f"{option}: {name} wants 16 to {1 << 26} entries, not {size!r}")
    return dict(value)
