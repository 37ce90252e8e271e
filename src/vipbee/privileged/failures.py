# SPDX-License-Identifier: Apache-2.0
"""An error on one side of the channel as the same error on the other."""

from __future__ import annotations

from vipbee.errors import EnvironmentUnusable, KernelError, VipbeeError
from vipbee.privileged.requests import Failed


class RefusedError(VipbeeError):
    """The helper does not do this: the request is not one the configuration allows."""


class HelperGoneError(VipbeeError):
    """The privileged helper has ended; without it nothing can be repaired or attached."""


def failed(error: Exception) -> Failed:
    """What to tell the other side; raise `error` itself if it is a programming error."""
    match error:
        case EnvironmentUnusable():
            return Failed("environment", error.problem, error.remedy)
        case KernelError():
            return Failed("kernel", error.what, error.detail, error.errno)
        case RefusedError():
            return Failed("refused", str(error))
        case OSError():
            return Failed("os", error.strerror or str(error), errno=error.errno or 0)
        case ValueError():  # what stands in a sysctl cannot be read
            return Failed("value", str(error))
        case RuntimeError():  # no thread to be had, a child that died
            return Failed("os", str(error))
    raise error


def error_of(failure: Failed) -> Exception:
    match failure.kind:
        case "environment":
            return EnvironmentUnusable(failure.message, remedy=failure.detail)
        case "kernel":
            return KernelError(failure.message, failure.errno, failure.detail)
        case "refused":
            return RefusedError(failure.message)
        case "value":
            return ValueError(failure.message)
    # OSError makes itself PermissionError and the like by errno
    return OSError(failure.errno, failure.message)
