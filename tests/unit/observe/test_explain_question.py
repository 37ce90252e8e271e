# SPDX-License-Identifier: Apache-2.0
"""Text to questions; what is none gets one sentence."""

from __future__ import annotations

import pytest

from vipbee.address import parse_address
from vipbee.errors import UsageError
from vipbee.observe.explain.question import SCTP, TCP, UDP, Question, parse_question


@pytest.mark.parametrize(
    ("text", "protocol", "expected"),
    [
        ("10.96.0.10:80", None, ("10.96.0.10", 80, TCP)),
        ("10.96.0.10:80", "udp", ("10.96.0.10", 80, UDP)),
        ("[fd00::1]:53", "UDP", ("fd00::1", 53, UDP)),
        ("10.96.0.10:80/UDP", None, ("10.96.0.10", 80, UDP)),  # as `service list` prints it
        ("10.96.0.10:80/SCTP", "sctp", ("10.96.0.10", 80, SCTP)),
    ],
)
def test_what_is_dialled(text: str, protocol: str | None, expected: tuple[str, int, int]) -> None:
    address, port, number = expected

    question = parse_question(text, protocol=protocol)

    assert question == Question(parse_address(address), port, number)


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.7", "192.0.2.7", None),
        ("192.0.2.7:40000", "192.0.2.7", 40000),
    ],
)
def test_who_asks(text: str, address: str, port: int | None) -> None:
    question = parse_question("10.96.0.10:80", sender=text, ifindex=3)

    assert (question.source, question.source_port) == (parse_address(address), port)
    assert question.ifindex == 3


@pytest.mark.parametrize("text", ["fd00::7", "[fd00::7]"])
def test_ipv6_senders_need_no_brackets(text: str) -> None:
    question = parse_question("[fd00::1]:53", sender=text)

    assert (question.source, question.source_port) == (parse_address("fd00::7"), None)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("10.96.0.10", {}, "'10.96.0.10' has no port: write it as 10.96.0.10:80 or [fd00::1]:53"),
        ("fd00::1", {}, "'fd00::1' has no port: write it as 10.96.0.10:80 or [fd00::1]:53"),
        ("web:80", {}, "'web' is not an IP address"),
        ("*:30080", {}, "'*:30080' is every address of a node: name one of them"),
        ("10.96.0.10:0", {}, "'10.96.0.10:0': port '0' is not in 1..65535"),
        ("10.96.0.10:٨٠", {}, "'10.96.0.10:٨٠': port '٨٠' is not in 1..65535"),
        ("[fd00::1:53", {}, "'[fd00::1:53' is not an address with a port, as 10.96.0.10:80"),
        ("10.96.0.10:80", {"protocol": "icmp"}, "protocol 'icmp' is not one of tcp, udp, sctp"),
        ("10.96.0.10:80/TCP", {"protocol": "udp"}, "TCP and --protocol udp contradict each other"),
        ("10.96.0.10:80", {"sender": "fd00::7"}, "one is IPv4, the other IPv6"),
        ("10.96.0.10:80", {"ifindex": 3}, "--device says by which device packets of --from"),
    ],
)
def test_what_is_no_question(text: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_question(text, **options)  # type: ignore[arg-type]

    assert message in str(caught.value)
