"""What all tables of a protocol file share, and the table that names the user's own code."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, model_validator


def suggestion(name: str, allowed: Iterable[str], all_of_them: str = "") -> str:
    """``; did you mean …? allowed: …`` for a name that is not allowed; all names that begin with it, if several do.

    ``all_of_them`` says where they are listed, if they are too many for a message.
    """
    allowed = list(allowed)
    starting = [each for each in allowed if name and each.startswith(name)]
    if len(starting) > 1:
        return f"; names that begin with it: {', '.join(starting)}"
    close = starting or difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    meant = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{meant} allowed: {all_of_them or ', '.join(allowed)}"


class Table(BaseModel):
    """A table of a protocol file: immutable, strict types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _name_the_allowed_keys(cls, data: Any) -> Any:
        for key in data if isinstance(data, Mapping) and cls.model_config["extra"] == "forbid" else ():
            if key not in cls.model_fields:
                raise ValueError(f"unknown key {key!r}{suggestion(key, cls.model_fields)}")
        return data


class Own(Table):
    """A class or function of the user's own. Keys without a meaning here are its options, passed on as keywords.

    Attributes:
        kind: "package.module:Name", or "./file.py:Name" relative to the protocol file.
        source_hash: of its file, put in when the protocol is loaded; one in the protocol file allows only that version.
    """

    model_config = ConfigDict(extra="allow")

    kind: Annotated[str, Field(pattern=r"^(\w+(\.\w+)*|[^:\x00]+\.py):[A-Za-z_]\w*$")]
    source_hash: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _a_name_may_say_it(cls, data: Any) -> Any:
        renamed = own_kind(data) == "name"
        return {"kind" if key == "name" else key: value for key, value in data.items()} if renamed else data

    @property
    def name(self) -> str:
        return self.kind

    @property
    def file(self) -> str:
        """What ``kind`` has before the colon: "./file.py" or "package.module"."""
        return self.kind.partition(":")[0]

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra)


def own_kind(table: Any) -> Literal["kind", "name"] | None:
    """The key by which a table of a protocol names the user's own code; None if it does not."""
    for key in ("kind", "name"):
        value = table.get(key) if isinstance(table, Mapping) else getattr(table, key, None)
        if isinstance(value, str):
            return key if ":" in value else None
    return None


OWN_OR_BUILT_IN = Discriminator(lambda table: "(own)" if own_kind(table) else "(built-in)")
