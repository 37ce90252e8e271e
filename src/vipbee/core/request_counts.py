# SPDX-License-Identifier: Apache-2.0
"""How often the API server was asked what, and what it answered. For metrics only (R106)."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

NO_ANSWER = "<error>"
"""client-go's word, which dashboards and alerts look for."""


class ApiRequest(NamedTuple):
    """Labels of kube-proxy's `rest_client_requests_total`."""

    code: str  # HTTP status, or NO_ANSWER
    host: str  # and port, of the server that was asked
    method: str


RequestCounts = Counter[ApiRequest]
