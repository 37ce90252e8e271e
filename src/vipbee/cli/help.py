# SPDX-License-Identifier: Apache-2.0
"""How `--help` looks: plain, so that no option's name is cut off, in sections.

typer's own panels give a name as much room as its text: in 80 columns `--hostname-overr…`.
"""

from __future__ import annotations

from typing import Any

import typer.core


class SectionedCommand(typer.core.TyperCommand):
    """Options under the heading that their `rich_help_panel` names."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
                title = getattr(parameter, "rich_help_panel", None) or kind
                sections.setdefault(title, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
