# SPDX-License-Identifier: Apache-2.0
"""What is asked: text to addresses and numbers, strictly. Pure."""

from __future__ import annotations

import re
from typing import NamedTuple

from vipbee.address import family_of, parse_address
from vipbee.errors import UsageError

TCP, UDP, SCTP = 6, 17, 132
PROTOCOLS = {"tcp": TCP, "udp": UDP, "sctp": SCTP}
PROTOCOL_NAMES = {number: name.upper() for name, number in PROTOCOLS.items()}

_NUMBER = re.compile(r"[0-9]{1,5}", re.ASCII)
_EXAMPLE = "10.96.0.10:80 or [fd00::1]:53"


class Question(NamedTuple):
    """A packet, or the call that would cause it. Addresses are 16 bytes."""

    address: bytes
    port: int
    protocol: int
    source: bytes | None = None  # None: a program of this node
    source_port: int | None = None
    ifindex: int | None = None  # of the device its packets come in by, if told
    is_first: bool = True  # TCP: a clean SYN, as a new connection begins with


def parse_question(
    destination: str,
    *,
    protocol: str | None = None,
    sender: str | None = None,
    ifindex: int | None = None,
    is_first: bool = True,
) -> Question:
    """Raise UsageError, one sentence, for what is no question."""
    destination, number = _split_protocol(destination, protocol)
    address, port = _parse_endpoint(destination)
    if port is None:
        raise UsageError(f"{destination!r} has no port: write it as {_EXAMPLE}")
    if sender is None:
        if ifindex is not None:
            raise UsageError("--device says by which device packets of --from come in: give both")
        return Question(address, port, number, is_first=is_first)
    source, source_port = _parse_endpoint(sender)
    if family_of(source) != family_of(address):
        raise UsageError(f"{sender} cannot send to {destination}: one is IPv4, the other IPv6")
    return Question(address, port, number, source, source_port, ifindex, is_first)


def _split_protocol(destination: str, option: str | None) -> tuple[str, int]:
    """`IP:port/PROTO`, as the lists print it, says the protocol too."""
    destination, slash, suffix = destination.partition("/")
    if slash and option is not None and suffix.lower() != option.lower():
        raise UsageError(f"{suffix} and --protocol {option} contradict each other")
    name = suffix if slash else option or "tcp"
    if name.lower() not in PROTOCOLS:
        raise UsageError(f"protocol {name!r} is not one of {', '.join(PROTOCOLS)}")
    return destination, PROTOCOLS[name.lower()]


def _parse_endpoint(text: str) -> tuple[bytes, int | None]:
    """`1.2.3.4`, `1.2.3.4:80`, `fd00::1` or `[fd00::1]:80`."""
    port: str | None = None
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise UsageError(f"{text!r} is not an address with a port, as {_EXAMPLE}")
        port = rest[1:] if rest else None
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host = text
    if host == "*":
        raise UsageError(f"{text!r} is every address of a node: name one of them")
    try:
        address = parse_address(host)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return address, None if port is None else _parse_port(port, text)


def _parse_port(port: str, where: str) -> int:
    if not _NUMBER.fullmatch(port) or not 0 < int(port) <= 65535:
        raise UsageError(f"{where!r}: port {port!r} is not in 1..65535")
    return int(port)
