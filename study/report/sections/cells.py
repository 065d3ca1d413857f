"""Cells shared by tables."""

import math

from study.protocol.schema import PublishedNumber
from study.report.document import Cell
from study.report.number_formats import Unit, p_value, points


def p_cell(p: float) -> Cell:
    return Cell(p_value(p), None if math.isnan(p) else p)


def published_cell(number: PublishedNumber) -> Cell:
    spread = "" if number.spread is None else f" ± {points(number.spread)}"
    return Cell(points(number.mean) + spread, number.mean)


def quantity_cell(value: float | None, unit: Unit) -> Cell:
    return Cell(unit.text(value), value)
