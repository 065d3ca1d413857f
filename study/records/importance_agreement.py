"""Rows of ``clreg-study agreement`` and their file."""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError

from study.atomic import write_atomically
from study.errors import StudyError
from study.protocol.schema import Protocol
from study.protocol.settings import EWC, OnlineEWC, Scenario
from study.protocol.validation_messages import validation_messages
from study.run.result import Natural
from study.run.specification import Frozen

AGREEMENT_FILE = "agreement.csv"
"""In the folder of records, or of a report."""

IN_THE_PASS = {"fisher", "n_samples", "batch_size", "draws"}
"""Of a method's settings, those that its pass depends on."""


Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Time = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Correlation = Annotated[float, Field(ge=-1 - 1e-6, le=1 + 1e-6, allow_inf_nan=False)]  # up to rounding


class AgreementError(StudyError):
    """The file of agreements cannot be used."""


class ImportanceAgreement(Frozen):
    """One importance compared with the exact one, after one experience.

    Attributes:
        scenario, seed, experience, method: which; experiences count from 0.
        settings: see :func:`settings_of`.
        torch, processor, commit: version, CPU model and code it was measured with; see
            :func:`study.run.system.git_commit`.
        seconds: of the pass, data in memory, one thread.
        epochs: of the pass, in training epochs on the same data.
        spearman, pearson, cosine, ratio: see :class:`clreg_plugins.diagnostics.Agreement`; over the entries that are
            not 0 in both, since parameters that no sample uses agree trivially.
        entries: how many these are.
        trace: sum of the importance; None in files of version 0.1.
    """

    scenario: Scenario
    seed: Natural
    experience: Natural
    method: str
    settings: str
    torch: str
    processor: str
    commit: str
    seconds: Time
    epochs: Time
    spearman: Correlation
    pearson: Correlation
    cosine: Correlation
    ratio: Amount
    entries: Natural
    trace: Annotated[Amount | None, BeforeValidator(lambda cell: None if cell == "" else cell)] = None

    @property
    def where(self) -> tuple[Scenario, int, int, str]:
        return self.scenario, self.seed, self.experience, self.method

    def belongs_to(self, protocol: Protocol) -> bool:
        """Whether it was measured with the protocol's settings of this method."""
        return self.method in protocol.methods and self.settings == settings_of(protocol, self.method)


def exact_methods(protocol: Protocol) -> list[str]:
    """The EWC methods with the exact Fisher on all samples: the first is what every importance is compared with."""
    methods = protocol.methods.items()
    return [m for m, of in methods if isinstance(of, EWC | OnlineEWC) and of.fisher == "exact" and not of.n_samples]


def settings_of(protocol: Protocol, method: str) -> str:
    """Hash of all settings that an importance depends on, except scenario and seed: 16 hexadecimal digits."""
    content = protocol.model_dump(mode="json", include={"benchmark", "model", "training"})
    content["method"] = protocol.methods[method].model_dump(mode="json", include=IN_THE_PASS)
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def write_agreement(rows: Sequence[ImportanceAgreement], path: Path) -> None:
    """Write rows as CSV, by scenario, seed and experience, replacing the file at once."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(ImportanceAgreement.model_fields), lineterminator="\n")
    writer.writeheader()
    in_order = sorted(rows, key=lambda row: row.where[:-1])  # methods as they come
    writer.writerows(row.model_dump() for row in in_order)
    write_atomically(path, text.getvalue().encode())


def read_agreement(path: Path) -> list[ImportanceAgreement]:
    """Read the rows of a file.

    Raises:
        AgreementError: the file is not valid.
    """
    try:
        table = csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""))
        rows = [ImportanceAgreement.model_validate(row) for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise AgreementError(f"{path} is not CSV: {error}") from error
    except ValidationError as error:
        raise AgreementError(
            f"{path}: {'; '.join(validation_messages(error))}; `clreg-study agreement` writes it"
        ) from error
    for where, times in Counter(row.where for row in rows).items():
        if times > 1:
            raise AgreementError(f"{path} has {times} rows of {where}; allowed: one; `clreg-study agreement` writes it")
    return rows


def check_agreement(rows: Sequence[ImportanceAgreement], protocol: Protocol, path: Path) -> None:
    """Check that rows belong to the protocol.

    Raises:
        AgreementError: a row is of a method that the protocol lacks, or of other settings.
    """
    for row in rows:
        if not row.belongs_to(protocol):
            raise AgreementError(
                f"{path}: the settings that {row.method} was measured with are none of the protocol's; delete the "
                "file, and `clreg-study agreement` measures again"
            )
