# SPDX-License-Identifier: Apache-2.0
"""The socket layer alone: nanoseconds a hook, programming, memory, restarts."""
