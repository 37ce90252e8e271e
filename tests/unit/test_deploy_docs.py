# SPDX-License-Identifier: Apache-2.0
"""What the operator's documents tell people to type: understood by those who read it."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from vipbee.cli.agent_options import make_parser
from vipbee.cli.commands import app

helm = pytest.importorskip("helm_python", reason="helm-python-sdk has no wheel for this machine")
render_manifests = pytest.importorskip("tools.render_manifests")

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ("operate", "kubeadm", "migrate-from-kube-proxy", "systemd")


def text_of(document: str) -> str:
    return (ROOT / "docs" / f"{document}.md").read_text()


def commands(document: str) -> list[list[str]]:
    """Every line of a code block without language as words, continuation lines joined."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```", text_of(document), re.MULTILINE | re.DOTALL)
    joined = "\n".join(block for language, block in fenced if not language)
    found = []
    for line in joined.replace("\\\n", " ").splitlines():
        try:
            found.append(shlex.split(line, comments=True))
        except ValueError:
            continue  # one line of a text in quotes
    return [words for words in found if words]


def everything_typed() -> list[list[str]]:
    return [words for document in DOCUMENTS for words in commands(document)]


def values_given(words: list[str]) -> dict[str, Any]:
    """What --set says, read by Helm itself."""
    values: dict[str, Any] = {}
    for option, value in itertools.pairwise(words):
        if option == "--set":
            for name, part in helm.parse_set_string(value).items():
                both = isinstance(part, dict) and isinstance(values.get(name), dict)
                values[name] = {**values[name], **part} if both else part
    return values


@pytest.mark.parametrize("document", ["operate", "kubeadm"])
def test_helm_takes_what_is_set(document: str) -> None:
    installs = [words for words in commands(document) if words[:2] == ["helm", "install"]]

    assert len(installs) == 1
    rendered = render_manifests.render(values_given(installs[0]))
    assert "https://10.0.0.1:6443" in rendered["configmap"]


def test_values_of_the_migration_render_to_what_it_promises() -> None:
    (block,) = re.findall(
        r"```yaml\n(# vipbee-values.yaml\n.*?)```", text_of("migrate-from-kube-proxy"), re.DOTALL
    )

    daemonset = yaml.safe_load(render_manifests.render(yaml.safe_load(block))["daemonset"])

    spec = daemonset["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"vipbee.io/proxy": "active"}
    assert "--takeover" in spec["containers"][0]["args"]


def test_names_to_replace_are_in_the_manifests() -> None:
    for words in everything_typed():
        files = [ROOT / word for word in words if word.startswith("deploy/kubernetes/")]
        for old in (w.split(",")[1] for w in words if re.fullmatch(r"s,[^,]+,[^,]+,", w)):
            assert all(old in file.read_text() for file in files), old


def test_every_vipbee_command_exists_with_its_options() -> None:
    root = typer.main.get_command(app)
    checked = 0
    for words in everything_typed():
        starts = [i for i, w in enumerate(words) if w in ("vipbee", "/opt/vipbee/bin/vipbee")]
        for start in starts:
            arguments = words[start + 1 :]
            if words[0] in ("helm", "systemctl"):
                continue  # a release, a unit
            if arguments[0] == "agent":
                known = set(make_parser()._option_string_actions)
            else:
                command = root.get_command(None, arguments[0])  # type: ignore[attr-defined]
                assert command is not None, words
                known = {option for p in command.params for option in p.opts}
            assert {w for w in arguments if w.startswith("--")} <= known, words
            checked += 1
    assert checked > 5


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_and_paths_lead_somewhere(document: str) -> None:
    text = text_of(document)
    links = [link for link in re.findall(r"\]\(([^)]+)\)", text) if "://" not in link]
    paths = re.findall(r"(?<![\w/])(?:deploy|examples)/[\w./-]+\w", text)

    for link in links:
        path, _, anchor = link.partition("#")
        target = ROOT / "docs" / path
        assert target.is_file(), link
        anchors = [
            re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        ]
        assert not anchor or anchor in anchors, link
    assert [path for path in paths if not (ROOT / path).exists()] == []
