# SPDX-License-Identifier: Apache-2.0
"""The shapes a state file may have, and what one bad object costs (F31-F34, F70)."""

from __future__ import annotations

import gc
import json
from typing import Any

import pytest
import yaml

from vipbee.core.store import Changes, Store
from vipbee.errors import SourceError
from vipbee.model import EndpointSlice, Node, Problem, Service
from vipbee.sources.decode import Decoded, decode_objects

SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"namespace": "default", "name": "web"},
    "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "http", "port": 80}]},
}
SLICE = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "ports": [{"name": "http", "port": 8080}],
    "endpoints": [{"addresses": ["10.244.1.2"], "conditions": {"ready": True}}],
}
NODE = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node-a"}}
POD = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"x": 1}}


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def as_yaml(value: Any) -> bytes:
    return yaml.dump(json.loads(json.dumps(value)), sort_keys=False).encode()


both_notations = pytest.mark.parametrize("write", [as_json, as_yaml])


def decode(data: str | bytes) -> Decoded:
    return decode_objects(data.encode() if isinstance(data, str) else data, source="F")


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": spec}


def names(decoded: Decoded) -> list[str]:
    return [item.metadata.name for item in decoded.objects]


def without_kind(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in ("kind", "apiVersion")}


# ---- shapes ------------------------------------------------------------------------


@both_notations
@pytest.mark.parametrize(
    "shape",
    [
        {
            "services": [without_kind(SERVICE)],
            "endpoints": [without_kind(SLICE)],
            "nodes": [without_kind(NODE)],
        },
        {"services": [SERVICE], "endpoints": [SLICE], "nodes": [NODE]},
        {"apiVersion": "v1", "kind": "List", "items": [SERVICE, SLICE, NODE]},
    ],
    ids=["sections", "sections-with-kind", "list"],
)
def test_each_shape_gives_the_same_objects(write: Any, shape: dict[str, Any]) -> None:
    decoded = decode(write(shape))

    assert decoded.problems == ()
    assert [type(item) for item in decoded.objects] == [Service, EndpointSlice, Node]
    web = decoded.objects[0]
    assert isinstance(web, Service)
    assert (web.metadata.namespace, web.metadata.name) == ("default", "web")
    assert web.spec.clusterIP == "10.96.0.10"
    assert web.spec.ports is not None
    assert web.spec.ports[0].port == 80


def test_a_stream_of_documents_may_mix_shapes() -> None:
    stream = b"---\n".join(
        [as_yaml(SERVICE), as_yaml({"kind": "List", "items": [NODE]}), as_yaml({"endpoints": []})]
    )

    assert names(decode(stream)) == ["web", "node-a"]


def test_json_documents_between_dashes_are_a_stream() -> None:
    assert names(decode(as_json(SERVICE) + b"\n---\n" + as_json(NODE) + b"\n")) == ["web", "node-a"]


def test_yaml_in_flow_style_is_not_mistaken_for_json() -> None:
    assert names(decode("{services: [{metadata: {name: web}, spec: {}}]}")) == ["web"]


@both_notations
def test_a_single_object_is_accepted(write: Any) -> None:
    assert names(decode(write(SERVICE))) == ["web"]


def test_items_of_a_typed_list_need_no_kind() -> None:
    """`kubectl get --raw /api/v1/services` leaves it out."""
    data = as_json({"kind": "ServiceList", "apiVersion": "v1", "items": [without_kind(SERVICE)]})

    assert names(decode(data)) == ["web"]


@both_notations
def test_objects_of_other_kinds_are_counted_and_otherwise_ignored(write: Any) -> None:
    knative = {**SERVICE, "apiVersion": "serving.knative.dev/v1"}

    decoded = decode(write({"kind": "List", "items": [POD, SERVICE, knative]}))

    assert names(decoded) == ["web"]
    assert (decoded.problems, decoded.ignored) == ((), 2)


def test_a_file_of_other_kinds_only_is_reported() -> None:
    decoded = decode(as_yaml(POD))

    assert decoded.problems == (
        Problem("F", "no Service, EndpointSlice or Node among 1 objects", is_error=False),
    )


def test_items_of_an_object_that_is_no_list_are_its_own() -> None:
    decoded = decode(as_yaml({**POD, "items": [{"key": "x"}], "kind": "ConfigMap"}))

    assert (decoded.objects, decoded.ignored) == ((), 1)


@both_notations
def test_unknown_sections_are_reported(write: Any) -> None:
    decoded = decode(write({"services": [], "endpointslices": []}))

    assert [problem.message for problem in decoded.problems] == [
        "unknown field 'endpointslices' is ignored; known: services, endpoints, nodes"
    ]


@both_notations
@pytest.mark.parametrize("value", [{"services": []}, {"services": None}, {"nodes": []}])
def test_an_empty_section_means_none(write: Any, value: Any) -> None:
    assert decode(write(value)) == Decoded((), ())


@pytest.mark.parametrize("data", [b"", b" \n\t\r\n", b"\xef\xbb\xbf", b"---\n", b"# only this\n"])
def test_an_empty_file_is_an_error(data: bytes) -> None:
    """F31: that is what a file looks like before it is written."""
    with pytest.raises(SourceError, match="to have no Services write `services: "):
        decode(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("foo: 1\n", "F line 1: want services:, endpoints:, nodes: or kind:, found 'foo'"),
        ("{}", "found nothing"),
        ("just text\n", "F line 1: want a mapping"),
        ("- a\n", "F line 1: want a mapping"),
        ("[]", "F line 1: want a mapping"),
        ("services: {a: 1}\n", "F line 1: services: expected array"),
        ('{"services": "all"}', "F line 1: services: expected array"),
        ("kind: 5\n", "F line 1: kind: expected str"),
        ('{\n"services": [\n  {"a" 1}\n]}', "F line 3: malformed JSON: expected ':'"),
        ('{"services": [\n{"metadata"', "F line 2: JSON ends too early"),
        ('{"services": []} {}', "F line 1: malformed JSON: trailing characters"),
        ('{"services": [], "x": "\0"}', "F line 1: malformed JSON"),
        ('{"a":' + "[" * 100_000, "F: malformed JSON: nested too deeply"),
        ('{"services":' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        ('{"services": [], "nodes": [], "services": [1]}', "F: key 'services' is given twice"),
        ('{"nodes": [{"metadata": {"name": "a", "name": "b"}}]}', "F: key 'name' is given twice"),
        ("services:\n- metadata: {name: a}\n  metadata: {name: b}\n", "F line 3: key 'metadata'"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_whole(data: str, message: str) -> None:
    """F31, F70."""
    with pytest.raises(SourceError, match=message):
        decode(data)


def test_json_with_byte_order_mark_and_crlf_is_accepted() -> None:
    """F31."""
    data = json.dumps({"services": [SERVICE]}, indent=1).replace("\n", "\r\n")

    assert names(decode(b"\xef\xbb\xbf" + data.encode())) == ["web"]


# ---- one bad object ------------------------------------------------------------------


@both_notations
@pytest.mark.parametrize(
    ("bad", "name", "reason"),
    [
        (
            service("bad", ports=[{"port": 81}, {"port": "80"}]),
            "Service default/bad",
            "spec.ports[1].port: expected int, got str",
        ),
        (
            service("bad", ports=[{"port": "８０"}]),
            "Service default/bad",
            "spec.ports[0].port: expected int, got str",
        ),
        (
            service("bad", ports=[{"port": True}]),
            "Service default/bad",
            "spec.ports[0].port: expected int, got bool",
        ),
        (
            service("bad", ports=[{"port": 80.5}]),
            "Service default/bad",
            "spec.ports[0].port: expected int, got float",
        ),
        (
            service("bad", ports=[{"port": None}]),
            "Service default/bad",
            "spec.ports[0].port: expected int, got null",
        ),
        (
            service("bad", ports={"port": 80}),
            "Service default/bad",
            "spec.ports: expected array | null, got object",
        ),
        (
            service("bad", clusterIP=10),
            "Service default/bad",
            "spec.clusterIP: expected str, got int",
        ),
        (
            {"metadata": {"name": "bad", "namespace": "ns"}},
            "Service ns/bad",
            "missing required field spec",
        ),
        (
            {"metadata": {"namespace": "ns"}, "spec": {}},
            "services[1] of F",
            "metadata: missing required field name",
        ),
        (
            {"metadata": {"name": ["bad"]}, "spec": {}},
            "services[1] of F",
            "metadata.name: expected str, got array",
        ),
        ([{"metadata": 1}], "services[1] of F", "expected object, got array"),
        (POD, "Pod default/p", "is no Service: only those belong under services:"),
        (
            service("Bad_Name"),
            "Service default/Bad_Name",
            "metadata.name: 'Bad_Name' is not a DNS label (a-z, 0-9 and '-', at most 63)",
        ),
        (
            service("we\u202eb"),
            "Service 'default/we\\u202eb'",
            "metadata.name: 'we\\u202eb' is not a DNS label (a-z, 0-9 and '-', at most 63)",
        ),
        (
            {"metadata": {"name": "x", "namespace": ""}, "spec": {}},
            "Service /x",
            "metadata.namespace: '' is not a DNS label",
        ),
    ],
)
def test_an_invalid_object_is_skipped_by_name_and_the_others_are_kept(
    write: Any, bad: Any, name: str, reason: str
) -> None:
    """F32, F33."""
    decoded = decode(write({"services": [service("first"), bad, service("last")]}))

    assert names(decoded) == ["first", "last"]
    assert decoded.problems == (Problem(name, reason, is_error=True),)


def test_items_that_are_scalars_are_reported() -> None:
    decoded = decode("services:\n- web\n- metadata: {name: web}\n  spec: {}\n")

    assert names(decoded) == ["web"]
    assert [problem.message for problem in decoded.problems] == ["expected object, got str"]


@pytest.mark.parametrize("port", ["010", "0x50", "1e3", "8_0", "yes", "１２"])
def test_yaml_ports_that_only_look_like_numbers_are_refused(port: str) -> None:
    """F32."""
    decoded = decode(f"services:\n- metadata: {{name: a}}\n  spec: {{ports: [{{port: {port}}}]}}\n")

    assert decoded.problems == (
        Problem("Service default/a", "spec.ports[0].port: expected int, got str", is_error=True),
    )


@both_notations
@pytest.mark.parametrize("port", [0, 65536, -1, 10**17])
def test_integers_out_of_range_are_left_to_core(write: Any, port: int) -> None:
    """F33: the type is right, so the object gets through and core names the port."""
    decoded = decode(write({"services": [service("a", ports=[{"port": port}])]}))

    (only,) = decoded.objects
    assert isinstance(only, Service)
    assert only.spec.ports is not None
    assert only.spec.ports[0].port == port


@both_notations
def test_an_unknown_protocol_passes_as_text(write: Any) -> None:
    """F33."""
    decoded = decode(write({"services": [service("a", ports=[{"port": 1, "protocol": "tcp"}])]}))

    (only,) = decoded.objects
    assert isinstance(only, Service)
    assert only.spec.ports is not None
    assert only.spec.ports[0].protocol == "tcp"


@both_notations
def test_of_an_object_given_twice_the_first_counts(write: Any) -> None:
    decoded = decode(
        write(
            {"services": [service("a", clusterIP="10.0.0.1"), service("a", clusterIP="10.0.0.2")]}
        )
    )

    (only,) = decoded.objects
    assert isinstance(only, Service)
    assert only.spec.clusterIP == "10.0.0.1"
    assert decoded.problems == (
        Problem(
            "Service default/a", "given more than once in F: the first is used", is_error=False
        ),
    )


def test_an_object_given_again_in_a_later_document_is_reported_too() -> None:
    decoded = decode(as_yaml(NODE) + b"---\n" + as_yaml({"nodes": [NODE]}))

    assert [problem.object for problem in decoded.problems] == ["Node node-a"]


def test_an_old_api_version_of_endpoint_slices_is_reported() -> None:
    old = {**SLICE, "apiVersion": "discovery.k8s.io/v1beta1"}

    decoded = decode(as_json({"kind": "List", "items": [old]}))

    reason = "apiVersion discovery.k8s.io/v1beta1 is not supported: use discovery.k8s.io/v1"
    assert decoded.problems == (Problem("EndpointSlice default/web-1", reason, is_error=True),)


def test_bytes_that_are_no_utf8_cost_one_json_object_only() -> None:
    data = as_json({"services": [service("a", clusterIP="X"), service("b")]}).replace(b"X", b"\xff")

    decoded = decode(data)

    assert names(decoded) == ["b"]
    assert [problem.object for problem in decoded.problems] == ["Service default/a"]


# ---- size ------------------------------------------------------------------------------


@both_notations
def test_an_annotation_of_256_kib_is_no_trouble(write: Any) -> None:
    """F34."""
    big = {**SERVICE, "metadata": {"name": "web", "annotations": {"note": "x" * (256 << 10)}}}

    assert names(decode(write({"services": [big]}))) == ["web"]


def test_an_integer_of_thousands_of_digits_costs_one_object_at_most() -> None:
    """F33: int() of so many digits is an error in Python."""
    data = as_json({"services": [service("a", ports=[{"port": 1}])]}).replace(
        b"1}", b"9" * 9999 + b"}"
    )

    assert len(decode(data).problems) == 1


def test_the_garbage_collector_is_running_again_after_a_big_file() -> None:
    decode(as_json({"services": [], "nodes": [{"metadata": {"name": "n" * 10}}] * 40_000}))

    assert gc.isenabled()


def test_decoding_stops_between_objects_when_asked() -> None:
    asked = 0

    def should_stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    with pytest.raises(SourceError, match="interrupted"):
        decode_objects(
            as_yaml({"nodes": [{"metadata": {"name": f"n{n}"}} for n in range(100)]}),
            source="F",
            should_stop=should_stop,
        )

    assert asked == 3


SINGLE_SLICE = b"""\
addressType: IPv4
apiVersion: discovery.k8s.io/v1
endpoints:
- addresses: [10.244.1.2]
kind: EndpointSlice
metadata: {name: web-1, labels: {kubernetes.io/service-name: web}}
ports: [{name: http, port: 8080}]
"""


@pytest.mark.parametrize("stream", [SINGLE_SLICE, SINGLE_SLICE + b"---\n" + SINGLE_SLICE])
def test_single_endpoint_slice_keeps_its_own_endpoints(stream: bytes) -> None:
    """interface.md §3: a stream of documents with `kind:`; `endpoints` is a slice's field too."""
    decoded = decode_objects(stream, source="f")

    (found,) = decoded.objects
    assert isinstance(found, EndpointSlice)
    assert [endpoint.addresses for endpoint in found.endpoints or ()] == [["10.244.1.2"]]


def test_single_endpoint_slice_in_json_keeps_its_own_endpoints() -> None:
    document = {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "addressType": "IPv4",
        "metadata": {"name": "web-1"},
        "endpoints": [{"addresses": ["10.244.1.2"]}],
    }

    (found,) = decode_objects(json.dumps(document).encode(), source="f").objects

    assert isinstance(found, EndpointSlice)
    assert found.endpoints is not None


def test_cidrs_of_pods_are_not_read_so_none_can_be_stale() -> None:
    """R58: kube-proxy has to start again when they change; to us nothing has changed."""
    before, after = (
        decode(as_json({**NODE, "spec": {"podCIDR": cidr, "podCIDRs": [cidr]}})).objects
        for cidr in ("10.244.1.0/24", "10.244.9.0/24")
    )
    store = Store()
    store.replace("a", before)

    assert before == after
    assert store.replace("a", after) == store.upsert("a", after[0]) == Changes()
