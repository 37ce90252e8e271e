# SPDX-License-Identifier: Apache-2.0
"""Whole messages with fds, in both directions, and nothing else."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from vipbee.privileged.channel import MAX_MESSAGE_BYTES, Channel, ChannelClosedError


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    agent, helper = Channel.pair()
    yield agent, helper
    agent.close()
    helper.close()


def test_a_message_and_its_fds_arrive_whole(ends: tuple[Channel, Channel]) -> None:
    agent, helper = ends
    read_end, write_end = os.pipe()

    helper.send(b"answer", [write_end])
    os.close(write_end)
    message, (fd,) = agent.receive(in_memory=True)
    os.write(fd, b"same pipe")
    os.close(fd)

    assert message == b"answer"
    assert os.read(read_end, 100) == b"same pipe"
    os.close(read_end)


def test_a_large_answer_comes_in_memory(ends: tuple[Channel, Channel]) -> None:
    agent, helper = ends
    large = b"x" * (4 * MAX_MESSAGE_BYTES)
    fd = os.open("/dev/null", os.O_RDONLY)

    helper.send(large, [fd])
    os.close(fd)
    message, fds = agent.receive(in_memory=True)

    assert message == large
    assert len(fds) == 1
    os.close(fds[0])


def test_the_helper_reads_no_message_from_memory(ends: tuple[Channel, Channel]) -> None:
    """The agent could change the file while it is read."""
    agent, helper = ends

    agent.send(b"x" * MAX_MESSAGE_BYTES)

    with pytest.raises(ValueError, match="not a message"):
        helper.receive(in_memory=False)


def test_a_message_that_is_cut_is_refused() -> None:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        one.send(b"\0" + b"x" * (MAX_MESSAGE_BYTES + 1))

        with pytest.raises(ValueError, match="whole"):
            Channel(other).receive(in_memory=False)


def test_fds_of_a_refused_message_are_closed(ends: tuple[Channel, Channel]) -> None:
    agent, helper = ends
    read_end, write_end = os.pipe()
    agent.send(b"x" * MAX_MESSAGE_BYTES, [write_end])
    os.close(write_end)

    with pytest.raises(ValueError, match="not a message"):
        helper.receive(in_memory=False)

    assert os.read(read_end, 1) == b""  # nobody holds the other end
    os.close(read_end)


def test_the_end_of_the_other_process_is_told(ends: tuple[Channel, Channel]) -> None:
    agent, helper = ends
    agent.close()

    with pytest.raises(ChannelClosedError):
        helper.receive(in_memory=False)
    with pytest.raises(ChannelClosedError):
        helper.send(b"answer")
