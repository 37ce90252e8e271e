# SPDX-License-Identifier: Apache-2.0
"""How a request to the API server can fail.

SourceError
└── RequestError       anything; try again later
    ├── Unreachable     no connection, or it broke: another address may do
    ├── Refused         an HTTP status or an ERROR event, with Retry-After
    │   └── Gone        410: this resourceVersion or continue token is too old
    └── Malformed       the answer cannot be understood
"""

from __future__ import annotations

from vipbee.errors import SourceError

BAD_REQUEST = 400
UNAUTHORIZED = 401
FORBIDDEN = 403
NOT_FOUND = 404
GONE = 410


class RequestError(SourceError):
    """Base class; the message names what was asked for."""

    retry_after_s: float | None = None


class Unreachable(RequestError):  # noqa: N818 (a state, as in errors.py)
    """No answer, or only a part of one."""


class Malformed(RequestError):  # noqa: N818 (a state, as in errors.py)
    """The answer is no Kubernetes API answer."""


class Refused(RequestError):  # noqa: N818
    """The server answered with Status `code`."""

    def __init__(
        self, code: int, message: str, *, reason: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after_s = retry_after_s

    @property
    def is_final(self) -> bool:
        """Whether only an operator can change it; still tried again, at leisure."""
        return self.code in (UNAUTHORIZED, FORBIDDEN, NOT_FOUND)


class Gone(Refused):
    """List again."""


def refused(
    code: int, message: str, *, reason: str = "", retry_after_s: float | None = None
) -> Refused:
    """Error for a Status."""
    is_gone = code == GONE or reason in ("Expired", "Gone")
    return (Gone if is_gone else Refused)(code, message, reason=reason, retry_after_s=retry_after_s)
