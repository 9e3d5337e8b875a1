"""The table of ratios, as text, JSON and SVG."""

from __future__ import annotations

import html
import math
import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Line:
    """What came out for one row: for each subject its values, or why it has none."""

    name: str
    unit: str
    goal: float | None
    limit: float | None
    values: dict[str, list[float]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def median(self, subject: str) -> float | None:
        """The median of a subject's values."""
        values = self.values.get(subject)
        return statistics.median(values) if values else None

    def ratio(self, subject: str) -> float | None:
        """The median as a multiple of the native one."""
        native, own = self.median("native"), self.median(subject)
        return own / native if native and own is not None else None

    def spread(self, subject: str) -> float | None:
        """How far the values lie apart: (highest - lowest) / median."""
        values, median = self.values.get(subject), self.median(subject)
        return (max(values) - min(values)) / median if values and median else None

    def goal_text(self) -> str:
        """What Skerry is to reach."""
        if self.goal is not None:
            return f"<= {self.goal:g}x"
        return f"<= {self.limit:g} {self.unit}" if self.limit is not None else ""

    def reached(self, subject: str) -> bool | None:
        """Whether a subject reaches the goal; None where there is none, or no value."""
        ratio, median = self.ratio(subject), self.median(subject)
        if self.goal is not None and ratio is not None:
            return ratio <= self.goal
        if self.limit is not None and median is not None:
            return median <= self.limit
        return None


def markdown(table: list[list[str]], facts: dict[str, str]) -> list[str]:
    """Lines: the facts, and the table, whose first row is its head, aligned so that it reads as plain text too."""
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    lines = [*(f"- {name}: {value}" for name, value in facts.items()), ""]
    for number, row in enumerate(table):
        lines.append("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |")
        if number == 0:
            lines.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def as_text(lines: list[Line], subjects: list[str], facts: dict[str, str]) -> str:
    """Markdown."""
    others = [name for name in subjects if name != "native"]
    table = [["row", "native", *others, "goal"]]
    for line in lines:
        native = line.median("native")
        cells = [line.name, _amount(native, line.unit) + _spread(line, "native") if native is not None else "-"]
        cells += [_cell(line, name) for name in others]
        table.append([*cells, line.goal_text()])
    text = [
        *markdown(table, facts),
        "",
        "A multiple is of the native median, the same run's; +-: half the distance of the highest value from the lowest.",
    ]
    reasons = [f"- {line.name}, {name}: {reason}" for line in lines for name, reason in line.reasons.items()]
    if reasons:
        text += ["", "Without a value:", *reasons]
    return "\n".join(text) + "\n"


def _cell(line: Line, subject: str) -> str:
    median, ratio = line.median(subject), line.ratio(subject)
    if median is None:
        return "-"
    amount = _amount(median, line.unit) + _spread(line, subject)
    missed = " !" if line.reached(subject) is False and subject == "skerry" else ""
    return (f"{ratio:.2f}x ({amount})" if ratio is not None else amount) + missed


def _spread(line: Line, subject: str) -> str:
    spread = line.spread(subject)
    return f" +-{spread * 50:.0f}%" if spread else ""


def _amount(value: float, unit: str) -> str:
    if unit == "ns" and value >= 10_000:
        value, unit = (value / 1e3, "us") if value < 1e7 else (value / 1e6, "ms")
    return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"


def as_json(lines: list[Line], subjects: list[str], facts: dict[str, str]) -> dict[str, Any]:
    """All values, to be worked on."""
    return {
        "facts": facts,
        "subjects": subjects,
        "rows": [
            {
                "name": line.name,
                "unit": line.unit,
                "goal": line.goal,
                "limit": line.limit,
                "values": line.values,
                "median": {name: line.median(name) for name in subjects},
                "ratio": {name: line.ratio(name) for name in subjects},
                "reached": line.reached("skerry"),
                "reasons": line.reasons,
            }
            for line in lines
        ],
    }


COLOURS = ("#0b7285", "#e8590c", "#5f3dc4", "#2b8a3e", "#a61e4d")
LEFT, WIDTH, BAR, GAP = 270, 560, 9, 7


def as_svg(lines: list[Line], subjects: list[str]) -> str:
    """Bars of the ratios to native, on a logarithmic scale; a tick marks the goal."""
    others = [name for name in subjects if name != "native"]
    shown = [line for line in lines if any(line.ratio(name) for name in others)]
    ratios = [ratio for line in shown for name in others if (ratio := line.ratio(name))] or [1.0]
    low = 10 ** math.floor(math.log10(min(*ratios, 0.99)))
    high = 10 ** math.ceil(math.log10(max(*ratios, 1.01)))

    def x(ratio: float) -> float:
        return LEFT + WIDTH * (math.log10(ratio) - math.log10(low)) / (math.log10(high) - math.log10(low))

    step = BAR * len(others) + GAP
    top = 50
    height = top + step * len(shown) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 60} {height}" font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="16" font-size="13">time as a multiple of native (logarithmic; shorter is better)</text>',
    ]
    decade = low
    while decade <= high * 1.001:
        weight = "2" if abs(decade - 1) < 1e-9 else "0.5"
        parts.append(
            f'<line x1="{x(decade):.1f}" y1="{top - 8}" x2="{x(decade):.1f}" y2="{height - 16}" stroke="#868e96" stroke-width="{weight}"/>'
        )
        parts.append(f'<text x="{x(decade):.1f}" y="{top - 12}" text-anchor="middle" fill="#495057">{decade:g}x</text>')
        decade *= 10
    for number, name in enumerate(others):
        at = LEFT + WIDTH - 110 * (len(others) - number)
        parts.append(f'<rect x="{at}" y="{height - 11}" width="9" height="9" fill="{COLOURS[number % len(COLOURS)]}"/>')
        parts.append(f'<text x="{at + 13}" y="{height - 3}">{html.escape(name)}</text>')
    for number, line in enumerate(shown):
        y = top + number * step
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + BAR * len(others) / 2 + 4:.1f}" text-anchor="end">{html.escape(line.name)}</text>'
        )
        for place, name in enumerate(others):
            if ratio := line.ratio(name):
                start, end = sorted((x(1), x(ratio)))
                colour = COLOURS[place % len(COLOURS)]
                parts.append(
                    f'<rect x="{start:.1f}" y="{y + place * BAR}" width="{max(end - start, 1):.1f}" height="{BAR - 1}" fill="{colour}"><title>{html.escape(name)}: {ratio:.2f}x</title></rect>'
                )
                parts.append(
                    f'<text x="{end + 3 if ratio >= 1 else x(1) + 3:.1f}" y="{y + place * BAR + BAR - 1}" font-size="9" fill="#495057">{ratio:.2g}</text>'
                )
        if line.goal is not None:
            parts.append(
                f'<line x1="{x(max(line.goal, low)):.1f}" y1="{y - 2}" x2="{x(max(line.goal, low)):.1f}" y2="{y + BAR * len(others)}" stroke="#212529" stroke-width="1.5"/>'
            )
    return "\n".join([*parts, "</svg>"]) + "\n"
