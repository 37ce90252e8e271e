# SPDX-License-Identifier: Apache-2.0
"""Whatever is in the file: objects or a SourceError, and never another exception (F31, F70)."""

from __future__ import annotations

import contextlib
import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from vipbee.errors import SourceError
from vipbee.sources.decode import decode_objects

STATE = {
    "services": [
        {
            "metadata": {"name": "web", "labels": {"a": "b"}, "annotations": {"n": "é\u2028😀"}},
            "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": 80, "name": "http"}]},
        }
    ],
    "nodes": [{"metadata": {"name": "n"}}],
}
JSON = json.dumps(STATE, indent=1, ensure_ascii=False).encode()
YAML = b"""\
# a comment
kind: List
items:
- kind: Service
  metadata: {name: web, annotations: {"n": "\\u00e9 x"}}
  spec:
    clusterIP: 10.96.0.10
    ports:
    - port: 80
      name: |
        text
- {kind: Node, metadata: {name: 'n'}}
---
services: []
"""


def decode(data: bytes) -> None:
    with contextlib.suppress(SourceError):
        decode_objects(data, source="F")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=64))
@example(b"\xef\xbb\xbf")
@example(b'{"services": [{"metadata": {"name": "\\ud800"}, "spec": {}}]}')
@example(b"kind: List\nitems: [[[[]]]]\n")
@example(b"- : : :\n")
def test_arbitrary_bytes(data: bytes) -> None:
    decode(data)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([JSON, YAML]),
    st.integers(0, len(JSON)),
    st.integers(0, 8),
    st.binary(max_size=4)
    | st.sampled_from([b"\t", b"\r", b"&a", b"*a", b"!!x", b"? ", b"[", b"}", b"---\n", b"null"]),
)
def test_a_state_file_with_a_few_bytes_replaced(
    data: bytes, start: int, length: int, inserted: bytes
) -> None:
    decode(data[:start] + inserted + data[start + length :])


def test_every_truncation_of_json_is_refused() -> None:
    """A half-written JSON file is never taken for a shorter state."""
    accepted = []
    for end in range(len(JSON)):
        with contextlib.suppress(SourceError):
            decode_objects(JSON[:end], source="F")
            accepted.append(end)

    assert accepted == []
