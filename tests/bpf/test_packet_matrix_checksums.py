# SPDX-License-Identifier: Apache-2.0
"""D32-D47: what Scapy would have sent from the translated ends, byte for byte.

D36 and D42-D47 need real devices (CHECKSUM_PARTIAL, GSO): tests/net covers them.
"""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest

from tests.support.packet_bench import Bench
from tests.support.packet_model.corpus import corpus, established
from tests.support.packet_model.dialogue import Dialogue, from_pod, outside
from tests.support.packet_model.generate import Segment
from tests.support.packet_model.lab import HERE, REMOTE, SELF, V4, V6, Addresses
from tests.support.packet_model.outcome import Action
from tests.support.packet_model.rewrite import internet_checksum
from tests.support.packet_model.wire import ETH_LENGTH, TCP, UDP, Endpoint, Packet, parse

PATHS = ["local", "remote", "hairpin", "pod"]


def start(path: str, bench: Bench, family: Addresses, protocol: int) -> Dialogue:
    if path in ("hairpin", "pod"):
        case = SELF if path == "hairpin" else REMOTE
        return from_pod(bench, family, case, protocol=protocol)
    return outside(bench, family, HERE if path == "local" else REMOTE, protocol=protocol)


def checksum_at(family: Addresses, protocol: int) -> int:
    header = 20 if family.family == 4 else 40
    return ETH_LENGTH + header + (16 if protocol == TCP else 6)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 64, 1001])
def test_d32_d38_translated_packets_are_what_scapy_would_send(
    bench: Bench, family: Addresses, protocol: int, path: str, size: int
) -> None:
    """D32-D38: forward; `Dialogue.answer` does the same for the way back."""
    talk = start(path, bench, family, protocol)
    talk.establish()
    payload = bytes(n * 7 % 251 for n in range(size))
    sent = Segment(talk.client, talk.frontend, protocol, "PA", 1001, 5001, payload)

    outcome = talk.say_frame(sent.frame())
    talk.answer("PA", sequence=5001, acknowledgement=1001 + size, payload=payload)

    spent = outcome.action is Action.REDIRECT
    expected = replace(
        sent, source=talk.shown_client, destination=talk.backend, ttl=sent.ttl - spent
    )
    assert talk.seen is not None
    assert talk.seen.frame == expected.frame()


@pytest.mark.parametrize("path", PATHS)
def test_d32_no_udp_checksum_stays_none(bench: Bench, path: str) -> None:
    """D32; over IPv6 (D34) see below."""
    talk = start(path, bench, V4, UDP)
    frame = Segment(talk.client, talk.frontend, UDP).frame()
    at = checksum_at(V4, UDP)

    talk.say_frame(frame[:at] + b"\0\0" + frame[at + 2 :])

    assert talk.seen is not None
    assert talk.seen.frame[at : at + 2] == b"\0\0"


def test_d34_udp_over_ipv6_without_checksum(bench: Bench) -> None:
    """D34: whatever happens, the zero is not turned into a wrong sum."""
    talk = outside(bench, V6, HERE, protocol=UDP)
    frame = Segment(talk.client, talk.frontend, UDP).frame()
    at = checksum_at(V6, UDP)

    outcome = talk.say_frame(frame[:at] + b"\0\0" + frame[at + 2 :])

    assert outcome.frame is None or outcome.frame[at : at + 2] == b"\0\0"


@pytest.mark.parametrize("path", PATHS)
def test_d33_a_sum_that_becomes_zero_is_written_as_ones(
    bench: Bench, family: Addresses, path: str
) -> None:
    """D33: the payload is chosen so that the translated datagram sums up to zero."""
    talk = start(path, bench, family, UDP)
    talk.establish()
    seen = Segment(talk.shown_client, talk.backend, UDP, payload=b"\0\0")
    at = checksum_at(family, UDP)
    missing = seen.frame()[at : at + 2]  # ~sum: adding it makes the sum 0xffff, written as 0
    assert internet_checksum(missing) != 0
    sent = Segment(talk.client, talk.frontend, UDP, payload=missing)

    talk.say_frame(sent.frame())

    assert talk.seen is not None
    assert talk.seen.frame[at : at + 2] == b"\xff\xff"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("error", [1, 0x8000, 0x1234])
def test_d35_wrong_checksums_stay_wrong_by_as_much(
    bench: Bench, family: Addresses, protocol: int, path: str, error: int
) -> None:
    """D35"""
    talk = start(path, bench, family, protocol)
    frame = Segment(talk.client, talk.frontend, protocol).frame()
    at = checksum_at(family, protocol)
    right = int.from_bytes(frame[at : at + 2])
    wrong = (right + error - 1) % 0xFFFE + 1

    talk.say_frame(frame[:at] + wrong.to_bytes(2) + frame[at + 2 :])

    assert talk.seen is not None
    packet = parse(talk.seen.frame)
    assert isinstance(packet, Packet)
    expected = Segment(packet.client, packet.dialled, protocol, ttl=packet.ttl).frame()
    shown, correct = (int.from_bytes(f[at : at + 2]) for f in (packet.frame, expected))
    assert (shown - correct) % 0xFFFF == (wrong - right) % 0xFFFF


def test_d35_a_wrong_header_checksum_stays_wrong(bench: Bench) -> None:
    """D35"""
    talk = outside(bench, V4, HERE)
    frame = Segment(talk.client, talk.frontend).frame()
    at = ETH_LENGTH + 10

    talk.say_frame(frame[:at] + bytes([frame[at] ^ 0x55]) + frame[at + 1 :])

    assert talk.seen is not None
    assert internet_checksum(talk.seen.frame[ETH_LENGTH : ETH_LENGTH + 20]) != 0


@pytest.mark.parametrize("port", [1, 255, 256, 40000, 65535])
def test_any_port_gives_a_right_checksum(
    bench: Bench, family: Addresses, protocol: int, port: int
) -> None:
    """D32, D33, D38: both bytes of the port, carries and all."""
    talk = outside(bench, family, REMOTE, protocol=protocol, port=port)

    talk.establish()

    assert talk.seen is not None
    seen = talk.seen
    again = Segment(
        Endpoint(seen.source, seen.source_port),
        Endpoint(seen.destination, seen.destination_port),
        protocol,
        "A",
        1001,
        5001,
        ttl=63,
    )
    assert seen.frame == again.frame()


def test_d37_the_sum_of_a_card_stays_the_packet_s(bench: Bench) -> None:
    """D37: CHECKSUM_COMPLETE, every path, both families, both ways, ICMP errors; the kernel
    itself sums again what the program leaves and compares."""
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 11):
        pytest.skip("BPF_F_TEST_SKB_CHECKSUM_COMPLETE is from Linux 6.11")
    wrong = []
    for base in corpus(established(bench)):
        try:
            bench.run(base.hook, base.device, base.frame, summed=True)
        except OSError as error:
            if error.errno != errno.EBADMSG:
                raise
            wrong.append(base.name)

    # what is left: refusals, made up here, which leave and are not summed again on the way
    assert {name for name in wrong if name.startswith("connection")} == set()
