# SPDX-License-Identifier: Apache-2.0
"""The systemd unit: understood by systemd, hardened, and its example configuration by the agent."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vipbee.config import load_config

SYSTEMD = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNIT = SYSTEMD / "vipbee.service"
INSTALLED = "/opt/vipbee/bin/vipbee"
MOST_EXPOSED = 33  # tenths: systemd's scale goes to 10 and calls less than 5 OK

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@needs_systemd
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """With a program that exists in place of the one that is installed."""
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace(INSTALLED, "/bin/true"))

    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
    )

    complaints = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert (done.returncode, complaints) == (0, [])


@needs_systemd
def test_unit_is_hardened() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={MOST_EXPOSED}", UNIT],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout[-200:]


def test_example_configuration_is_one() -> None:
    unit = UNIT.read_text()
    (path,) = re.findall(rf"^ExecStart={INSTALLED} agent --config (\S+)$", unit, re.MULTILINE)

    settings, warnings = load_config(SYSTEMD / Path(path).name, {})

    assert warnings == ()
    assert settings.state_file == Path("/etc/vipbee/services")
    assert f"ReadWritePaths={settings.bpf_root.parent}" in unit
