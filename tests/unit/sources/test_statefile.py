# SPDX-License-Identifier: Apache-2.0
"""Files that change, break, vanish and come back (F31). Polled by hand: nothing sleeps."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from vipbee.errors import SourceError
from vipbee.sources.events import Failed, Loaded, Removed, SourceEvent, Synced
from vipbee.sources.statefile import MAX_DEFERRALS, StateFileSource

KEPT = "; the last good state stays in force"


def nodes(*names: str) -> str:
    """A state file with one Node per name: the smallest object there is."""
    return "nodes:\n" + "".join(f"- metadata: {{name: {name}}}\n" for name in names)


def later() -> int:
    """A clock for which every file has long settled."""
    return time.time_ns() + 3_600_000_000_000


def source_of(path: Path, *, max_bytes: int = 1 << 20) -> StateFileSource:
    return StateFileSource(path, clock_ns=later, max_bytes=max_bytes)


def shown(events: list[SourceEvent]) -> list[object]:
    """Events in short: a Loaded as file name and object names."""
    result: list[object] = []
    for event in events:
        match event:
            case Loaded():
                name = Path(event.source).name
                result.append((name, *(item.metadata.name for item in event.objects)))
            case Removed():
                result.append(f"removed {Path(event.source).name}")
            case Failed():
                result.append(f"failed {event.error}")
            case Synced():
                result.append("synced")
    return result


def replace(path: Path, text: str) -> None:
    """Write as an atomic rename does."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_text(text)
    temporary.rename(path)


# ---- one file ------------------------------------------------------------------------


def test_the_first_poll_loads_and_then_reports_synced(tmp_path: Path) -> None:
    path = tmp_path / "state.yaml"
    path.write_text(nodes("a"))
    source = source_of(path)

    assert shown(source.poll()) == [("state.yaml", "a"), "synced"]
    assert source.poll() == []


def test_the_file_may_have_any_name(tmp_path: Path) -> None:
    path = tmp_path / ".state"
    path.write_text('{"nodes": []}')

    assert shown(source_of(path).poll()) == [(".state",), "synced"]


@pytest.mark.parametrize("write", [Path.write_text, replace], ids=["in-place", "rename"])
def test_a_change_is_loaded_whole(tmp_path: Path, write: object) -> None:
    path = tmp_path / "state.yaml"
    path.write_text(nodes("a"))
    source = source_of(path)
    source.poll()

    write(path, nodes("a", "b"))  # type: ignore[operator]

    assert shown(source.poll()) == [("state.yaml", "a", "b")]


def test_a_change_of_equal_size_with_the_old_mtime_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "state.yaml"
    path.write_text(nodes("a"))
    source = source_of(path)
    source.poll()
    before = path.stat()

    replace(path, nodes("b"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert shown(source.poll()) == [("state.yaml", "b")]


def test_content_that_means_the_same_is_no_event(tmp_path: Path) -> None:
    path = tmp_path / "state.yaml"
    path.write_text(nodes("a"))
    source = source_of(path)
    source.poll()

    path.touch()
    assert source.poll() == []
    path.write_text("# a comment\n" + nodes("a"))
    assert source.poll() == []


def test_a_broken_file_is_reported_once_with_its_line_and_keeps_the_last_good_state(
    tmp_path: Path,
) -> None:
    path = tmp_path / "state.yaml"
    path.write_text(nodes("a"))
    source = source_of(path)
    source.poll()

    path.write_text("nodes:\n- metadata: {name: a\n")

    (failed,) = shown(source.poll())
    assert str(failed).startswith(f"failed {path} line 2: ")
    assert str(failed).endswith(KEPT)
    assert source.poll() == []


def test_a_repaired_file_is_sent_even_if_it_says_what_it_said(tmp_path: Path) -> None:
    """Otherwise nobody would learn that the failure is over."""
    path = tmp_path / "state.yaml"
    path.write_text(nodes("a"))
    source = source_of(path)
    source.poll()
    path.write_text("nodes: [")
    source.poll()

    path.write_text(nodes("a"))

    assert shown(source.poll()) == [("state.yaml", "a")]


def test_an_emptied_file_keeps_the_last_good_state(tmp_path: Path) -> None:
    path = tmp_path / "state.yaml"
    path.write_text(nodes("a"))
    source = source_of(path)
    source.poll()

    path.write_text("")

    assert shown(source.poll()) == [
        f"failed {path} is empty: to have no Services write `services: []`{KEPT}"
    ]


def test_a_file_that_disappears_keeps_the_last_good_state_until_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "state.yaml"
    path.write_text(nodes("a"))
    source = source_of(path)
    source.poll()

    path.rename(tmp_path / "away")
    assert shown(source.poll()) == [f"failed {path} has disappeared{KEPT}"]
    assert source.poll() == []

    (tmp_path / "away").rename(path)
    assert shown(source.poll()) == [("state.yaml", "a")]


def test_a_file_that_is_not_there_yet_is_not_synced(tmp_path: Path) -> None:
    path = tmp_path / "state.yaml"
    source = source_of(path)

    assert shown(source.poll()) == [
        f"failed {path} cannot be read: No such file or directory; waiting for it"
    ]

    path.write_text(nodes("a"))
    assert shown(source.poll()) == [("state.yaml", "a"), "synced"]


def test_a_file_that_never_was_good_is_not_synced(tmp_path: Path) -> None:
    path = tmp_path / "state.yaml"
    path.write_text("{")

    assert shown(source_of(path).poll()) == [
        f"failed {path} line 1: JSON ends too early, or has half of a surrogate pair"
    ]


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "state.yaml"
    path.touch()
    os.truncate(path, 300 << 20)

    assert shown(source_of(path, max_bytes=256 << 20).poll()) == [
        f"failed {path} has 300 MiB, more than the 256 MiB accepted:"
        " split it into a directory of files"
    ]


def test_a_hundred_megabytes_of_json_are_loaded(tmp_path: Path) -> None:
    """F31; takes about a second."""
    path = tmp_path / "state.json"
    with path.open("wb") as opened:
        opened.write(b'{"nodes": [')
        for number in range(100):
            note = b"x" * (1 << 20)
            item = b'{"metadata": {"name": "n%d", "annotations": {"note": "%s"}}}' % (number, note)
            opened.write(item + (b"," if number < 99 else b"]}"))

    loaded, synced = source_of(path, max_bytes=256 << 20).poll()

    assert isinstance(loaded, Loaded)
    assert len(loaded.objects) == 100
    assert synced == Synced()


def test_a_fifo_is_refused_and_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "state.yaml"
    os.mkfifo(path)

    assert shown(source_of(path).poll()) == [f"failed {path} is not a regular file"]


def test_problems_of_objects_come_with_the_others(tmp_path: Path) -> None:
    path = tmp_path / "state.yaml"
    path.write_text(nodes("a", "[b]"))

    loaded = source_of(path).poll()[0]

    assert isinstance(loaded, Loaded)
    assert [item.metadata.name for item in loaded.objects] == ["a"]
    assert [problem.object for problem in loaded.problems] == [f"nodes[1] of {path}"]


# ---- half-written files -----------------------------------------------------------------


def test_a_file_changed_a_moment_ago_is_left_alone_until_it_settles(tmp_path: Path) -> None:
    path = tmp_path / "state.yaml"
    path.write_text(nodes("a"))
    now = path.stat().st_ctime_ns + 1_000_000
    source = StateFileSource(path, clock_ns=lambda: now)

    assert source.poll() == []

    now += 60_000_000
    assert shown(source.poll()) == [("state.yaml", "a"), "synced"]


def test_a_file_that_never_settles_is_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "state.yaml"
    path.write_text(nodes("a"))
    source = StateFileSource(path, clock_ns=lambda: path.stat().st_ctime_ns)

    for count in range(MAX_DEFERRALS):
        path.write_text(nodes("a") + "#" * count)
        assert source.poll() == []
    path.write_text(nodes("b"))

    assert shown(source.poll()) == [("state.yaml", "b"), "synced"]


def test_a_clock_behind_the_files_does_not_defer(tmp_path: Path) -> None:
    """F61: ctime in the future, after the clock was set back."""
    path = tmp_path / "state.yaml"
    path.write_text(nodes("a"))
    source = StateFileSource(path, clock_ns=lambda: 0)

    assert shown(source.poll()) == [("state.yaml", "a"), "synced"]


def test_a_file_written_to_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state.yaml"
    path.write_text(nodes("a"))
    source = source_of(path)
    real_fstat = os.fstat
    calls = 0

    def fstat(descriptor: int) -> os.stat_result:
        nonlocal calls
        calls += 1
        if calls == 2:  # after the read: somebody appends
            with path.open("a") as opened:
                opened.write("- metadata: {name: b}\n")
        return real_fstat(descriptor)

    monkeypatch.setattr("vipbee.sources.statefile.os.fstat", fstat)

    assert source.poll() == []
    assert shown(source.poll()) == [("state.yaml", "a", "b"), "synced"]


# ---- a directory ---------------------------------------------------------------------------


def test_a_directory_is_all_its_yaml_and_json_files(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(nodes("b"))
    (tmp_path / "a.yaml").write_text(nodes("a"))
    (tmp_path / "c.json").write_text('{"nodes": [{"metadata": {"name": "c"}}]}')
    (tmp_path / ".hidden.yaml").write_text("{")
    (tmp_path / "README.md").write_text("{")
    (tmp_path / "sub.yaml").mkdir()

    assert shown(source_of(tmp_path).poll()) == [
        ("a.yaml", "a"),
        ("b.yml", "b"),
        ("c.json", "c"),
        "synced",
    ]


def test_only_the_file_that_changed_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.yaml").write_text(nodes("a"))
    (tmp_path / "b.yaml").write_text(nodes("b"))
    source = source_of(tmp_path)
    source.poll()
    opened: list[str] = []
    real_open = os.open

    def recording_open(name: str, flags: int) -> int:
        opened.append(Path(name).name)
        return real_open(name, flags)

    monkeypatch.setattr("vipbee.sources.statefile.os.open", recording_open)

    (tmp_path / "b.yaml").write_text(nodes("b", "c"))

    assert shown(source.poll()) == [("b.yaml", "b", "c")]
    assert opened == ["b.yaml"]


def test_a_file_that_leaves_the_directory_takes_its_objects_with_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(nodes("a"))
    (tmp_path / "b.yaml").write_text(nodes("b"))
    source = source_of(tmp_path)
    source.poll()

    (tmp_path / "a.yaml").unlink()

    assert shown(source.poll()) == ["removed a.yaml"]


def test_a_broken_file_does_not_stop_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("nodes: [")
    (tmp_path / "b.yaml").write_text(nodes("b"))

    failed, loaded, synced = shown(source_of(tmp_path).poll())

    assert str(failed).startswith(f"failed {tmp_path}/a.yaml line 1: ")
    assert (loaded, synced) == (("b.yaml", "b"), "synced")


def test_an_empty_directory_is_synced(tmp_path: Path) -> None:
    assert shown(source_of(tmp_path).poll()) == ["synced"]


def test_a_directory_that_disappears_removes_nothing(tmp_path: Path) -> None:
    directory = tmp_path / "services"
    directory.mkdir()
    (directory / "a.yaml").write_text(nodes("a"))
    source = source_of(directory)
    source.poll()

    directory.rename(tmp_path / "away")
    assert shown(source.poll()) == [f"failed {directory} has disappeared{KEPT}"]
    assert source.poll() == []

    (tmp_path / "away").rename(directory)
    assert shown(source.poll()) == ["removed services", ("a.yaml", "a")]


def test_the_symlink_swap_of_a_config_map_is_one_change(tmp_path: Path) -> None:
    """F31: ..data points to a directory of a version; a rename moves it to the next."""
    for version, name in (("..v1", "a"), ("..v2", "b")):
        (tmp_path / version).mkdir()
        (tmp_path / version / "state.yaml").write_text(nodes(name))
    (tmp_path / "..data").symlink_to("..v1")
    (tmp_path / "state.yaml").symlink_to("..data/state.yaml")
    directory, single = source_of(tmp_path), source_of(tmp_path / "state.yaml")
    assert shown(directory.poll()) == shown(single.poll()) == [("state.yaml", "a"), "synced"]

    (tmp_path / "..tmp").symlink_to("..v2")
    (tmp_path / "..tmp").rename(tmp_path / "..data")

    assert shown(directory.poll()) == shown(single.poll()) == [("state.yaml", "b")]


def test_a_dangling_symlink_is_reported_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("nowhere")
    (tmp_path / "b.yaml").write_text(nodes("b"))

    assert shown(source_of(tmp_path).poll()) == [
        f"failed {tmp_path}/a.yaml cannot be read: No such file or directory",
        ("b.yaml", "b"),
        "synced",
    ]


# ---- watching ---------------------------------------------------------------------------------


def test_watch_delivers_a_change_within_a_second(tmp_path: Path) -> None:
    path = tmp_path / "state.yaml"
    path.write_text(nodes("a"))

    async def run() -> tuple[list[object], float]:
        events: list[SourceEvent] = []
        changed = 0.0
        watching = StateFileSource(path).watch()
        async for event in watching:
            events.append(event)
            if isinstance(event, Synced):
                changed = time.monotonic()
                replace(path, nodes("b"))
            if len(events) == 3:
                break
        await watching.aclose()
        return shown(events), time.monotonic() - changed

    events, took_s = asyncio.run(asyncio.wait_for(run(), 10))

    assert events == [("state.yaml", "a"), "synced", ("state.yaml", "b")]
    assert took_s < 1


def test_closing_the_watch_ends_a_decode_under_way(tmp_path: Path) -> None:
    """SIGTERM must not wait for a big YAML file."""
    path = tmp_path / "state.yaml"
    path.write_text(nodes(*(f"n{count}" for count in range(1000))))
    source = source_of(path)

    async def run() -> None:
        watching = source.watch()
        assert isinstance(await anext(watching), Loaded)
        await watching.aclose()

    asyncio.run(run())
    path.write_text(nodes("other"))

    (failed,) = source.poll()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, SourceError)
    assert "interrupted" in str(failed.error)
