# SPDX-License-Identifier: Apache-2.0
"""The difference between what the tables should hold and what they do hold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vipbee.core.frontends import FrontendTable, raw_list
from vipbee.core.ledger import Ledger, differs
from vipbee.core.plan import Changes
from vipbee.core.render import address_keys, frontend_keys
from vipbee.core.snapshot import Records, Snapshot


def compare(snapshot: Snapshot, ledger: Ledger, table: FrontendTable) -> Changes:
    """Return the changes that repair the actual tables; apply them with `Changes.repairs`.

    Also free backends and unused slots are put back: somebody wrote to them.
    """
    changes = Changes()
    _compare_arrays(snapshot, ledger, changes)
    _compare_services(snapshot, ledger, changes)
    layouts = ledger.layouts

    keys = frontend_keys(layouts, list(table.values))
    values = np.frombuffer(b"".join(table.values.values()), layouts["frontend"])
    put, gone = _compare_hash(keys, values, snapshot.frontend_keys, snapshot.frontends)
    changes.frontends.append((keys[put], values[put]))
    changes.frontends_gone.append(snapshot.frontend_keys[gone])
    table.foreign_frontends = 0

    keys = address_keys(layouts, table.flags)
    values = np.fromiter(table.flags.values(), np.uint32, len(table.flags))
    put, gone = _compare_hash(keys, values, snapshot.address_keys, snapshot.addresses)
    changes.addresses.append((keys[put], values[put]))
    changes.addresses_gone.append(snapshot.address_keys[gone])
    table.foreign_addresses = 0

    if snapshot.source_range_keys is not None:
        keys, actual = ledger.source_ranges.keys(), snapshot.source_range_keys
        # the value is 1 and nobody reads it
        put, gone = _compare_hash(keys, keys, actual, actual)
        changes.source_ranges.append((keys[put], np.ones(len(put), np.uint32)))
        changes.source_ranges_gone.append(actual[gone])
    return changes


def _compare_arrays(snapshot: Snapshot, ledger: Ledger, changes: Changes) -> None:
    wrong = np.flatnonzero(snapshot.slots != ledger.slots).astype(np.uint32)
    changes.slots.append((wrong, ledger.slots[wrong]))
    wrong = np.flatnonzero(differs(snapshot.backends, ledger.backends)).astype(np.uint32)
    values = ledger.backends[wrong]
    is_live = values["flags"] != 0
    changes.backends_first.append((wrong[is_live], values[is_live]))
    changes.backends_last.append((wrong[~is_live], values[~is_live]))


def _compare_services(snapshot: Snapshot, ledger: Ledger, changes: Changes) -> None:
    wanted = np.array([record.service_id for record in ledger.programmed.values()], np.uint32)
    values = ledger.services[wanted]
    put, gone = _compare_hash(wanted, values, snapshot.service_ids, snapshot.services)
    changes.services.append((wanted[put], values[put]))
    changes.services_gone.append(snapshot.service_ids[gone])


def _compare_hash(
    keys: Records, values: Records, actual_keys: Records, actual_values: Records
) -> tuple[Sequence[int], Sequence[int]]:
    """Return (rows to put, rows of the actual table to delete)."""
    wanted = raw_list(keys)
    wanted_set = set(wanted)
    actual_raw = raw_list(actual_keys)
    actual = dict(zip(actual_raw, raw_list(actual_values), strict=True))
    rows = zip(wanted, raw_list(values), strict=True)
    put = [at for at, (key, value) in enumerate(rows) if actual.get(key) != value]
    gone = [at for at, key in enumerate(actual_raw) if key not in wanted_set]
    return put, gone
