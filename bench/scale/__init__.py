# SPDX-License-Identifier: Apache-2.0
"""The agent against an API server, at the sizes and rates of large clusters."""
