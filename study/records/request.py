"""What the runs of a folder were asked for, so that ``status`` and ``report`` of it know."""

import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

import tomli_w
from pydantic import Field

from study.atomic import write_atomically
from study.protocol.schema import Protocol
from study.protocol.settings import Scenario
from study.records.store import RecordError
from study.run.specification import Frozen, Run

REQUEST = "request.toml"


class Request(Frozen):
    """What ``run`` or ``tune`` was asked for.

    Attributes:
        protocol: its name.
        overrides: ``--set``, in the order given.
        runs: how many, by scenario and method.
        evaluated_on: see :class:`Run`; "validation" for a search.
    """

    protocol: str
    overrides: list[str]
    runs: dict[Scenario, dict[str, Annotated[int, Field(ge=1)]]]
    evaluated_on: Literal["test", "validation"] = "test"

    @classmethod
    def of(cls, name: str, overrides: Sequence[str], runs: Sequence[Run]) -> Self:
        """The request for these runs of a protocol."""
        asked: dict[Scenario, dict[str, int]] = {}
        for (scenario, method), number in Counter((run.scenario, run.label) for run in runs).items():
            asked.setdefault(scenario, {})[method] = number
        return cls(protocol=name, overrides=list(overrides), runs=asked, evaluated_on=runs[0].evaluated_on)

    @classmethod
    def whole(cls, name: str, protocol: Protocol) -> Self:
        """The request for every method in every scenario on all seeds."""
        runs = {scenario: dict.fromkeys(protocol.methods, protocol.seeds) for scenario in protocol.scenarios}
        return cls(protocol=name, overrides=[], runs=runs)


def write_request(request: Request, folder: Path) -> None:
    """Keep a request; one with the same settings is extended, another replaced."""
    earlier, runs = read_request(folder), request.runs
    if earlier is not None and earlier.model_copy(update={"runs": runs}) == request:
        for scenario, methods in earlier.runs.items():
            ours = runs.get(scenario, {})
            runs = runs | {scenario: {m: max(methods.get(m, 0), ours.get(m, 0)) for m in methods | ours}}
    content = request.model_copy(update={"runs": runs}).model_dump(mode="json")
    write_atomically(folder / REQUEST, tomli_w.dumps(content).encode())


def read_request(folder: Path) -> Request | None:
    """What the last run of a folder was asked for; None if that is not known.

    Raises:
        RecordError: the file is damaged.
    """
    path = folder / REQUEST
    try:
        return Request.model_validate(tomllib.loads(path.read_text(encoding="utf-8")), strict=True)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path} is not what `clreg-study run` writes; delete it and repeat --set") from error
