# SPDX-License-Identifier: Apache-2.0
"""Problems as Kubernetes Events, where operators look first: `kubectl describe service`.

    problems ─► notes ─► ledger ─► recorder ─► events.k8s.io/v1
                what     when      POST, PATCH

Only problems that have a `reason` (model.Problem) and only with an API server as source;
everything else is in the log and in `vipbee status`. Nothing waits for an Event, and nothing
fails for want of one.

RBAC: `create` and `patch` of `events` in the API group `events.k8s.io`, nothing else.
"""
