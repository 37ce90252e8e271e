# SPDX-License-Identifier: Apache-2.0
"""Watches that are cut, torn or make no sense: F15, F33, F34."""

from __future__ import annotations

import json

import pytest

from tests.support.apiserver import ApiServer, Script
from tests.support.following import (
    following,
    line,
    run,
    service,
    versioned,
)
from vipbee.model import Service


@pytest.mark.parametrize("ending", ["end", "cut"])
def test_line_that_ends_too_early_is_read_again(ending: str) -> None:
    """F15: the next watch begins before it."""

    async def scenario(server: ApiServer) -> None:
        whole = line("ADDED", versioned(service("c")))
        half = line("ADDED", service("b"))[:40]
        server.fail("services", "watch", Script((whole, half), ending))  # type: ignore[arg-type]
        async with following(server) as view:
            await view.until(lambda: server.count("watch", "services") >= 2)
            server.objects.put("services", service("b"))
            await view.until(lambda: view.services == {"a", "b", "c"})

    run(scenario)


def test_characters_cut_in_two_are_put_together() -> None:
    """F15: UTF-8 split at every byte of a chunk."""
    item = versioned(service("b"))
    item["metadata"]["annotations"] = {"note": "žluťoučký 🐝"}
    data = json.dumps({"type": "ADDED", "object": item}, ensure_ascii=False).encode() + b"\n"

    async def scenario(server: ApiServer) -> None:
        pieces = tuple(data[at : at + 1] for at in range(len(data)))
        server.fail("services", "watch", Script(pieces, "stall"))
        async with following(server) as view:
            await view.until(lambda: view.services == {"a", "b"})

            [b] = [s for s in view.objects(Service) if s.metadata.name == "b"]
            assert b.metadata.annotations == {"note": "žluťoučký 🐝"}

    run(scenario)


def test_object_of_twenty_megabytes_is_read() -> None:
    """F15, F34."""

    async def scenario(server: ApiServer) -> None:
        async with following(server) as view:
            big = service("big")
            big["metadata"]["annotations"] = {"note": "x" * (20 << 20)}
            server.objects.put("services", big)
            await view.until(lambda: view.services == {"a", "big"})

    run(scenario)


def test_watch_that_never_makes_sense_is_listed_instead() -> None:
    """F15: what it would say comes by the list."""

    async def scenario(server: ApiServer) -> None:
        server.fail("services", "watch", *[Script((b"{]\n",))] * 3)
        async with following(server) as view:
            server.objects.put("services", service("b"))
            await view.until(lambda: view.services == {"a", "b"})
            await view.until(lambda: view.lists() == 2)

    run(scenario)


def test_object_that_is_not_as_expected_costs_only_itself() -> None:
    """F33, F34: reported by name; what it said before stays, until it makes sense again."""

    async def scenario(server: ApiServer) -> None:
        odd = service("odd")
        odd["spec"]["ports"] = [{"port": "eighty"}]
        server.objects.put("services", odd)
        async with following(server) as view:
            assert view.services == {"a"}
            [complaint] = view.problems["API server: services"]
            assert "spec.ports[0].port" in complaint

            server.objects.put("services", service("odd"))
            await view.until(lambda: view.services == {"a", "odd"})
            assert view.problems["API server: services"] == []
            server.objects.put("services", odd)
            await view.until(lambda: view.problems["API server: services"])
            assert view.services == {"a", "odd"}

    run(scenario)
