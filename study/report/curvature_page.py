"""The page of ``clreg-study curvature``: a sentence, a figure and a table."""

from pathlib import Path

import rich.table
from pydantic import ValidationError

from study.atomic import write_atomically
from study.errors import StudyError
from study.report.document import Bullets, Cell, Code, Document, Figure, Gallery, Section, Table
from study.report.figures.curvature_figure import LINES, curvature_figure
from study.report.markdown import write_page
from study.report.number_formats import NOTHING
from study.report.rich_tables import to_terminal
from study.run.curvature import FACTORS, Curvature, TrainingPath

DATA = "curvature.json"


class CurvatureError(StudyError):
    """A measurement cannot be read."""


def read_curvature(folder: Path) -> Curvature:
    """The measurement in a folder.

    Raises:
        CurvatureError: there is none, or the file holds something else.
    """
    path = folder / DATA
    try:
        return Curvature.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise CurvatureError(f"there is no {path}; `clreg-study curvature` without --rebuild writes it") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise CurvatureError(f"{path} is not a measurement of curvature: {place}: {first['msg']}") from None


def write_curvature(found: Curvature, folder: Path) -> Path:
    """Write the measurement, its figure and its page; the same measurement gives the same bytes.

    Returns:
        The path of the page.
    """
    write_atomically(folder / DATA, (found.model_dump_json(indent=1) + "\n").encode())
    return write_page(_document(found), folder)


def _document(found: Curvature) -> Document:
    caption = (
        "Increase of the first experience's loss while the second is trained, and what each quadratic around the end "
        "of the first predicts."
    )
    drawing = curvature_figure("curvature", caption, found.paths)
    figure = Figure("curvature", f"{caption} Values that are not positive are not shown.", caption, drawing)
    packages = ", ".join(f"{package} {version}" for package, version in found.versions.items())
    made_by = f"{packages}; commit {found.commit}; {found.processor}."
    run = found.paths[0].run
    return Document(
        f"How good the quadratic is: {found.title}",
        "How much of the increase of the first experience's loss, while the second is trained, quadratics around the "
        f"end of the first predict; 100% is right, more is too much. {run.scenario.capitalize()}-incremental, seed "
        f"{run.seed}, no test:",
        (_answers(found), Gallery((figure,)), _table(found)),
        (Section("reproduction", "Reproduction", (Code(found.command, "sh"), made_by)),),
    )


def curvature_table(found: Curvature) -> rich.table.Table:
    """The last point of each path, for a terminal."""
    return to_terminal(_table(found))


def _caption(found: Curvature) -> str:
    run = found.paths[0].run
    return (
        f"The end of each path: {run.scenario}-incremental, seed {run.seed}, {found.parameters:,} parameters, "
        f"{found.samples:,} samples; percentages are of Gauss–Newton's δᵀGδ"
    )


def _table(found: Curvature) -> Table:
    """The last point of each path, a column for each."""
    paths = found.paths
    numbers = {
        "iterations": [str(path.iterations[-1]) for path in paths],
        "distance ‖θ − θ*‖": [f"{path.distance[-1]:.3g}" for path in paths],
        "increase of the loss, nats": [f"{path.actual[-1]:.3g}" for path in paths],
        "gᵀδ + ½ δᵀHδ, of the increase": [_share(_quadratic(path), path.actual[-1]) for path in paths],
        "gradient, gᵀδ": [f"{path.first_order[-1]:.3g}" for path in paths],
        "Gauss–Newton, ½ δᵀGδ": [f"{path.gauss_newton[-1]:.3g}" for path in paths],
        "Hessian, of δᵀGδ": [_share(path.hessian[-1], path.gauss_newton[-1]) for path in paths],
    }
    for name in paths[0].predicted:
        numbers[LINES[name].label] = [_share(path.predicted[name][-1], path.gauss_newton[-1]) for path in paths]
    headings, kinds = ("", *(path.run.label for path in paths)), ("name", *["number"] * len(paths))
    rows = tuple(tuple(map(Cell, (name, *cells))) for name, cells in numbers.items())
    return Table("curvature", _caption(found), headings, kinds, rows)


def _share(value: float, whole: float) -> str:
    """A share in percent, with at least two digits."""
    if not whole:
        return NOTHING
    percent = 100 * value / whole
    if 0 < abs(percent) < 0.01:
        return "< 0.01%"
    return f"{percent:.0f}%" if abs(percent) >= 10 else f"{percent:.2g}%"


def _quadratic(path: TrainingPath) -> float:
    """gᵀδ + ½ δᵀHδ at the end of a path."""
    return path.first_order[-1] + path.hessian[-1]


def _answers(found: Curvature) -> Bullets:
    """A sentence for each path: how much of the increase a quadratic predicts, and of that quadratic each curvature."""
    sentences = []
    for path in found.paths:
        whole = _share(_quadratic(path), path.actual[-1])
        factors, diagonal = (_share(path.predicted[name][-1], path.gauss_newton[-1]) for name in (FACTORS, "exact"))
        said = (
            f"gradient and Hessian predict {whole} of the increase. Of Gauss–Newton's δᵀGδ the Kronecker factors give "
            f"{factors}, the exact diagonal {diagonal}."
        )
        sentences.append((path.run.label, "", said))
    return Bullets(tuple(sentences))
