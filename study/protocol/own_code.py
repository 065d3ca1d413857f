"""Code of the user's own, named in a protocol as "package.module:Name" or "./file.py:Name".

A protocol is loaded without importing such code: only the hash of its file is taken. :func:`resolve` imports it.
"""

import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Iterable, Mapping
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

from study.errors import ProtocolError
from study.protocol.settings import OwnMethod
from study.protocol.table import Own, suggestion


def source_hash(kind: str, folder: Path) -> str | None:
    """Hash of the file that defines ``kind``, 16 hexadecimal digits; None if there is no such file.

    Args:
        kind: "package.module:Name", or "./file.py:Name".
        folder: of the protocol file, which a file's path is relative to.
    """
    path = _file(kind, folder)
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def versions(tables: Iterable[object]) -> dict[str, str | None]:
    """The hash of each file or module that tables of a protocol name as the user's own code."""
    return {table.file: table.source_hash for table in tables if isinstance(table, Own)}


def resolve(settings: Own, key: str, folder: Path) -> Any:
    """Import the class or function that a protocol names.

    Args:
        settings: its table of the protocol.
        key: of that table, for errors.
        folder: of the protocol file. Modules next to it can be imported.

    Raises:
        ProtocolError: there is no such file or name, importing it fails, or it is not the version of ``source_hash``.
    """
    place, _, name = settings.kind.partition(":")
    said = f"{key}.kind = {settings.kind!r}"
    path, found = _file(settings.kind, folder), source_hash(settings.kind, folder)
    if path is None:
        where = f"file {folder / place}" if place.endswith(".py") else f"module {place} that has a file"
        raise ProtocolError(f"{said}: there is no {where}; allowed: package.module:Name or ./file.py:Name")
    if found != settings.source_hash:
        raise ProtocolError(
            f"{said}: {path.name} has changed, it has the hash {found} and not {settings.source_hash}; allowed: the "
            "version with that hash"
        )
    if str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))
    try:
        target = _module_of(path, found) if place.endswith(".py") else importlib.import_module(place)
    except Exception as error:
        raise ProtocolError(f"{said}: it cannot be imported: {describe(error, path)}") from error
    if not callable(getattr(target, name, None)):
        names = [each for each, value in vars(target).items() if getattr(value, "__module__", "") == target.__name__]
        raise ProtocolError(f"{said}: {path.name} has no class or function {name!r}{suggestion(name, names)}")
    return getattr(target, name)


def build(
    settings: Own, key: str, folder: Path, offered: Mapping[str, Any], always: Mapping[str, Any] | None = None
) -> Any:
    """Call the class or function that a protocol names, with its options as keywords.

    Args:
        settings, key, folder: as in :func:`resolve`.
        offered: keywords that it gets if it names them and no option gives them.
        always: keywords that it gets in any case.

    Raises:
        ProtocolError: it does not take these keywords, or the call fails.
    """
    target = resolve(settings, key, folder)
    said = f"{key}.kind = {settings.kind!r}"
    signature = inspect.signature(target)
    named = {name: value for name, value in offered.items() if name in signature.parameters}
    arguments = {**named, **(always or {}), **settings.options}
    options = [name for name in signature.parameters if name not in {**named, **(always or {})}]
    for name in settings.options:
        if name not in signature.parameters and not _takes_any_keyword(signature):
            raise ProtocolError(
                f"{said}: unknown key {key}.{name}{suggestion(name, options, '' if options else 'none')}"
            )
    try:
        signature.bind(**arguments)
    except TypeError as error:
        allowed = ", ".join(name for name in signature.parameters if name not in named)
        strength = ""
        if isinstance(settings, OwnMethod):
            strength = f"; λ goes to {settings.strength_argument!r}, see strength and strength_argument"
        raise ProtocolError(f"{said}: {error}; allowed: {allowed or 'no options'}{strength}") from error
    try:
        return target(**arguments)
    except ProtocolError:
        raise
    except Exception as error:
        raise ProtocolError(f"{said}: {describe(error, _file(settings.kind, folder))}") from error


def _takes_any_keyword(signature: inspect.Signature) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())


def describe(error: BaseException, path: Path | None) -> str:
    """An error of the user's code on one line, with the last line of ``path`` that it passed through."""
    said = " ".join(f"{type(error).__name__}: {error}".split())
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if path and Path(f.filename).name == path.name]
    return f"{said} ({path.name}, line {lines[-1]})" if lines else said


def _file(kind: str, folder: Path) -> Path | None:
    place = kind.partition(":")[0]
    if place.endswith(".py") and "\0" not in place:
        path = (folder / place).resolve()
        return path if path.is_file() else None
    spec = _spec(place.split("."), folder)
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def _spec(parts: list[str], folder: Path) -> ModuleSpec | None:
    """Where a module lies. ``importlib.util.find_spec`` would import the packages that it is in."""
    if not all(map(str.isidentifier, parts)):
        return None
    path = [*sys.path, str(folder.resolve())]
    spec = PathFinder.find_spec(parts[0], path) or importlib.util.find_spec(parts[0])  # the latter: editable installs
    for depth in range(2, len(parts) + 1):
        if spec is None or spec.submodule_search_locations is None:
            return None
        spec = PathFinder.find_spec(".".join(parts[:depth]), spec.submodule_search_locations)
    return spec


class _Uncached(SourceFileLoader):
    """Compiles what is in the file: bytecode of another version may have its size and time."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)


def _module_of(path: Path, source: str) -> Any:
    """The module of a file, imported once for each version, under a name that unpickling finds in any process."""
    name = f"{path.stem}_{source}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path, loader=_Uncached(name, str(path)))
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
