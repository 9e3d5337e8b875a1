"""The findings as an SVG: a bar for each subject, three times."""

from __future__ import annotations

import html

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from .subjects import Findings

LEFT, WIDTH, BAR, STEP = 130, 560, 14, 20
COLOURS = ("#1971c2", "#e8590c", "#2f9e44", "#9c36b5", "#c92a2a", "#0c8599", "#5f3dc4", "#66a80f")


def as_svg(command: str, found: Sequence[Findings]) -> str:
    """Three panels: what the application can reach, what the sandbox called, what of the kernel ran."""
    panels = [
        ("host system calls that the application can reach", [_reach(one) for one in found]),
        (
            "host system calls that the whole sandbox made",
            [None if one.calls is None else len(one.calls.counts) for one in found],
        ),
        (
            "functions of the host's kernel that ran",
            [None if one.functions is None else len(one.functions.names) for one in found],
        ),
    ]
    panels = [(title, values) for title, values in panels if any(value is not None for value in values)]
    height = 30 + len(panels) * (34 + STEP * len(found))
    box = f"0 0 {LEFT + WIDTH + 60} {height}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="8" y="16" font-size="13">{html.escape(command)} (shorter is better)</text>',
    ]
    y = 40
    for title, values in panels:
        parts.append(f'<text x="{LEFT}" y="{y}" fill="#495057">{html.escape(title)}</text>')
        y += 8
        most = max(value or 0 for value in values) or 1
        for place, (one, value) in enumerate(zip(found, values, strict=True)):
            parts.append(f'<text x="{LEFT - 8}" y="{y + 11}" text-anchor="end">{html.escape(one.name)}</text>')
            if value is None:
                parts.append(f'<text x="{LEFT + 3}" y="{y + 11}" fill="#868e96">not known</text>')
            else:
                length = max(WIDTH * value / most, 1)
                colour = COLOURS[place % len(COLOURS)]
                parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>')
                parts.append(f'<text x="{LEFT + length + 4:.1f}" y="{y + 11}" fill="#495057">{value}</text>')
            y += STEP
        y += 26
    return "\n".join([*parts, "</svg>"]) + "\n"


def _reach(one: Findings) -> int | None:
    return None if one.application is None or one.application.filters is None else len(one.application.reached)
