"""Columns for people: plain text, aligned, one line a row. (rich takes half of lbctl's 100 ms to import.)"""

from __future__ import annotations

from collections.abc import Sequence

import click


def columns(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned lines; cells may be styled, their width is what is seen of them."""
    every = [tuple(click.style(title, bold=True) for title in titles), *rows]
    widths = [max(len(click.unstyle(row[i])) for row in every) for i in range(len(titles))]
    return [
        "  ".join(
            cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in ([" ".join(cell.split("\n")) for cell in row] for row in every)
    ]
