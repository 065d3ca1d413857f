"""Cells that several tables have."""

import math

from study.protocol.schema import PublishedNumber
from study.report.document import Cell
from study.report.number_formats import Unit, p_value, points


def p_cell(p: float) -> Cell:
    """A p-value."""
    return Cell(p_value(p), None if math.isnan(p) else p)


def published_cell(number: PublishedNumber) -> Cell:
    """A published mean with its spread."""
    spread = "" if number.spread is None else f" ± {points(number.spread)}"
    return Cell(points(number.mean) + spread, number.mean)


def quantity_cell(value: float | None, unit: Unit) -> Cell:
    """A time or a memory in its column's unit."""
    return Cell(unit.text(value), value)
