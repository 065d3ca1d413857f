"""Files that were damaged or edited: each is refused in a line that names it, and no wrong value is believed.

``CLREG_FUZZ_EXAMPLES=10000 pytest tests/study/test_damaged_files.py`` tries more of them. The examples are the same in
every run.
"""

import copy
import gzip
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from clreg_plugins.importance.engine.forward_pass import is_out_of_memory
from study.campaign.progress import runs_under_way
from study.cli.app import app
from study.errors import ProtocolError
from study.protocol.load import parse_protocol
from study.records.run_record import RunRecord, record_of
from study.records.store import ARCHIVE, RecordError, RunStore, read_archive, write_archive
from study.run import trainer as training
from study.run.checkpoint import Checkpoint, State
from study.run.result import ProgressReport
from study.run.run_environment import RunEnvironment
from tests.fuzzing import count_example, fuzzed
from tests.study.made_up import finished
from tests.study.run.test_checkpoint import stop_before

VALUES = [1.5, -0.2, 0.25, float("nan"), float("inf"), 1e308, 2**63, -1, 0, True, None, "", "x", [], [[]], [[0.5]], {}]


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """Bytes with a bit flipped, or a part cut off, left out, repeated or replaced."""
    start = draw(st.integers(0, len(content) - 1))
    end = draw(st.integers(start + 1, min(len(content), start + 64)))
    before, part, after = content[:start], content[start:end], content[end:]
    flipped = bytes([part[0] ^ 1 << draw(st.integers(0, 7))])
    ways = [before + flipped + part[1:] + after, before, before + after, before + part + part + after]
    return draw(st.sampled_from([*ways, before + draw(st.binary(max_size=64)) + after]))


@st.composite
def edited(draw: Any, content: Any) -> Any:
    """JSON with one value replaced, or one entry left out or repeated."""
    root = [copy.deepcopy(content)]
    places = list(_places(root))
    holder, key = places[draw(st.integers(0, len(places) - 1))]
    way = draw(st.sampled_from(["replace", "replace", "leave out", "repeat"]))
    if way == "replace" or holder is root:
        holder[key] = draw(st.sampled_from(VALUES))
    elif way == "leave out":
        del holder[key]
    elif isinstance(holder, list):
        holder.insert(key, holder[key])
    else:
        holder[f"{key}2"] = holder[key]
    return root[0]


def _places(holder: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in list(holder.items() if isinstance(holder, dict) else enumerate(holder)):
        yield holder, key
        if isinstance(value, dict | list):
            yield from _places(value)


@contextmanager
def folder_of(files: Mapping[str, bytes]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        for file, content in files.items():
            path = Path(name, file)
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        yield Path(name)


def check(*command: object) -> None:
    """Run a command: it ends well or with one message, and never in a traceback."""
    result = CliRunner().invoke(app, list(map(str, command)))
    assert result.exception is None or isinstance(result.exception, SystemExit), (command, result.exception)
    assert result.exit_code in (0, 2), result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (result.exit_code == 2), result.stderr


@pytest.fixture(scope="module")
def records(run_of) -> dict[str, RunRecord]:
    """Three records by file name."""
    found = [record_of(run, finished(run)) for run in (run_of("ewc", seed=0), run_of("ewc", seed=1), run_of("joint"))]
    return {record.file_name: record for record in found}


@pytest.fixture(scope="module")
def files(records) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as name:
        for record in records.values():
            RunStore(Path(name)).write(record)
        return {path.name: path.read_bytes() for path in Path(name).iterdir()}


@pytest.fixture(scope="module")
def protocol_path(text, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("protocol") / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return path


@given(data=st.data())
@fuzzed
def test_records(data, records, files, protocol_path, monkeypatch):
    count_example()
    monkeypatch.setattr(training, "perform", finished)
    name, other = data.draw(st.sampled_from([(a, b) for a in sorted(files) for b in sorted(files)]))
    content = data.draw(
        st.one_of(
            damaged(files[name]),
            edited(json.loads(files[name])).map(lambda changed: json.dumps(changed).encode()),
            st.just(files[other]),  # a copy under this name
        )
    )
    with folder_of({**files, name: content}) as folder:
        found = RunStore(folder).contents()
        assert all(record == records[record.file_name] for record in found.records)
        assert {record.file_name for record in found.records} | {path.name for path in found.damaged} == set(files)
        check("status", protocol_path, "--records", folder)
        check("compare", f"{folder}:ewc", f"{folder}:joint")
        only = ["--methods", "ewc,joint", "--scenario", "class", "--seeds", 2, "--jobs", 1]
        check("run", protocol_path, *only, "--out", folder)


@given(data=st.data())
@fuzzed
def test_archives(data, records, protocol_path, tmp_path_factory):
    count_example()
    path = tmp_path_factory.mktemp("archive") / ARCHIVE
    write_archive(list(records.values()), path)
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    by_hand = edited(lines).map(lambda changed: changed if isinstance(changed, list) else [changed])
    path.write_bytes(
        data.draw(
            st.one_of(
                damaged(path.read_bytes()),
                by_hand.map(lambda changed: gzip.compress("\n".join(map(json.dumps, changed)).encode())),
            )
        )
    )
    try:
        found = read_archive(path)
    except RecordError as error:
        found, said = [], str(error)
    else:
        said = str(path)
    assert all(record.sealed() == records[record.file_name] for record in found)
    assert str(path) in said
    assert "\n" not in said
    check("status", protocol_path, "--records", path.parent)


@given(data=st.data())
@fuzzed
def test_progress_and_request(data, files, protocol_path):
    count_example()
    progress = ProgressReport(run="class-incremental si, seed 9", experiences=1, of=2, accuracy=0.5).model_dump()
    request = b'protocol = "tiny"\noverrides = []\nevaluated_on = "test"\n\n[runs.class]\newc = 2\n'
    report = json.dumps(progress).encode()
    bad = data.draw(st.one_of(damaged(report), edited(progress).map(lambda changed: json.dumps(changed).encode())))
    with folder_of({**files, "under-way/x.json": bad, "request.toml": data.draw(damaged(request))}) as folder:
        running, broken = runs_under_way(folder / "under-way")
        assert len(running) + len(broken) == 1
        assert all(0 <= report.experiences <= report.of for report in running)
        assert all(0 <= report.accuracy <= 1 for report in running if report.accuracy is not None)
        check("status", protocol_path, "--records", folder)


@pytest.fixture(scope="module")
def checkpoint(run_of, tmp_path_factory) -> Iterator[tuple[Checkpoint, bytes]]:
    folder = tmp_path_factory.mktemp("under-way")
    run = run_of("si", "task")
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_before(1, run, RunEnvironment(Path(), checkpoints=folder), monkeypatch)
    found = Checkpoint(folder, run)
    return found, found.path.read_bytes()


@given(data=st.data())
@fuzzed
def test_checkpoints(data, checkpoint):
    count_example()
    found, whole = checkpoint
    content = data.draw(damaged(whole))
    found.path.write_bytes(content)
    assert (found.load() is None) == (content != whole)


@given(data=st.data())
@fuzzed
def test_checkpoints_whose_hash_is_right(data, checkpoint):
    """As a forger's: what is read is a state or nothing, and nothing but a lack of memory is raised."""
    count_example()
    found, whole = checkpoint
    content = data.draw(damaged(whole.partition(b"\n")[2]))
    found.path.write_bytes(f"{found._header(content)}\n".encode() + content)
    try:
        state = found.load()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    else:
        assert isinstance(state, State | None)


NUMBERS = re.compile(r"(?<![\w.-])\d[\d_]*(\.\d+)?(e-?\d+)?(?![\w.])")


@given(data=st.data())
@fuzzed
def test_protocols(data, text, tmp_path_factory):
    count_example()
    numbers = [match.span() for match in NUMBERS.finditer(text) if "#" not in text[: match.start()].rpartition("\n")[2]]
    start, end = data.draw(st.sampled_from(numbers))
    for number in ("1e308", "9223372036854775807", "-1", "nan", "1" + "0" * 5000, "[" * 2000):
        with pytest.raises(ProtocolError, match=r"x\.toml"):
            parse_protocol(f"{text[:start]}{number}{text[end:]}", "x.toml")
    path = tmp_path_factory.mktemp("protocol") / "x.toml"
    path.write_bytes(data.draw(damaged(text.encode())))
    check("show", path)
