# SPDX-License-Identifier: Apache-2.0
"""Where objects come from. Each source delivers typed `model` objects as events.

Must not decide anything about Services: no selection, no ids, no maps. Sources
know neither `datapath` nor `observe`.
"""
