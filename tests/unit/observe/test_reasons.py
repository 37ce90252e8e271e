# SPDX-License-Identifier: Apache-2.0
"""Every counter that can grow says what it means."""

from __future__ import annotations

from vipbee.abi import Reason
from vipbee.observe.reasons import MEANINGS, meaning


def test_every_reason_has_a_meaning_of_its_own() -> None:
    assert list(MEANINGS) == list(Reason)
    assert len(set(MEANINGS.values())) == len(Reason)


def test_a_reason_is_found_by_the_name_that_status_and_metrics_show() -> None:
    assert meaning("no_endpoint") == "refused: the Service port has no usable endpoint"
