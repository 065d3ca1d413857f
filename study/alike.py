"""What ``clreg-study agreement`` measures, and the file that it is kept in."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from study.errors import StudyError
from study.records import Frozen
from study.settings import Scenario
from study.store import write_atomically
from study.wording import in_words

AGREEMENT = "agreement.csv"
"""In the folder of records, or of a report."""


class AgreementError(StudyError):
    """A file of agreements that cannot be read."""


class Alike(Frozen):
    """One importance beside the exact one, after one experience.

    Attributes:
        scenario, seed, experience, method: where; experiences count from 0.
        seconds: of the pass, with the data in memory, in one thread.
        epochs: of the pass, in training epochs on the same data.
        spearman, pearson, cosine, ratio: see :class:`clreg_plugins.diagnostics.Agreement`; over the entries that are
            not 0 in both, since what no sample depends on would make all importances alike.
        entries: how many these are.
    """

    scenario: Scenario
    seed: int
    experience: int
    method: str
    seconds: float
    epochs: float
    spearman: float
    pearson: float
    cosine: float
    ratio: float
    entries: int


def write_agreement(rows: Sequence[Alike], path: Path) -> None:
    """Write rows as CSV, replacing the file at once."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(Alike.model_fields), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    write_atomically(path, text.getvalue().encode())


def parse_agreement(text: bytes, path: Path) -> list[Alike]:
    """The rows of such a file.

    Args:
        text: what is in it.
        path: its name in errors.

    Raises:
        AgreementError: it is something else.
    """
    try:
        return [Alike.model_validate(row) for row in csv.DictReader(io.StringIO(text.decode(), newline=""))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise AgreementError(f"{path} is not CSV: {error}") from error
    except ValidationError as error:
        raise AgreementError(f"{path}: {'; '.join(in_words(error))}; `clreg-study agreement` writes it") from error
