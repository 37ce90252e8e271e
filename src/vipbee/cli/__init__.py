# SPDX-License-Identifier: Apache-2.0
"""The `vipbee` command: one file a subcommand, mounted by `main`."""
