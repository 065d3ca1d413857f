"""A report's files: where their numbers come from, the same bytes for the same records, nothing left over."""

import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from study.protocol.load import load_protocol
from study.protocol.schema import Protocol
from study.records.run_record import Hardware, RunRecord
from study.records.store import ARCHIVE, read_archive
from study.report.selection import ReportError
from study.report.write_report import write_report
from study.run.specification import Run
from tests.study.report.reading import markdown_tables
from tests.study.report.synthetic import (
    TEXT,
    all_records,
    record,
    search_records,
    toy,
    written,
)

# ------------------------------------------------------------------------------- where the numbers come from


def test_versions_machines_commits_and_commands_are_those_of_the_records(tmp_path, without_figures):
    protocol = toy()
    records = [record(protocol, method, seed=seed) for method in ("naive", "ewc") for seed in range(3)]
    gpu = Hardware(system="Linux x86_64", processor="A CPU", gpu="A GPU")
    other = {"versions": {"clreg": "0.1.0", "torch": "2.9.0"}, "hardware": gpu, "commit": "fedcba+", "resumed": 2}
    folder = written(tmp_path, [*records[:-1], RunRecord.model_validate(records[-1].model_dump() | other)])
    tables = markdown_tables(folder)
    assert tables["Versions"][1:] == [["clreg", "0.1.0"], ["torch", "2.8.0 (5 runs) and 2.9.0 (1 run)"]]
    assert tables["Machines"][1:] == [["A CPU", "A GPU", "Linux x86_64", "1"], ["A CPU", "–", "Linux x86_64", "5"]]
    text = (folder / "README.md").read_text()
    assert "Code: 0123456789abcdef0123456789abcdef01234567 (5 runs) and fedcba+ (1 run)." in text
    assert 'A "+" marks a commit with local changes. 1 run resumed from a checkpoint.' in text
    assert "The protocol asks for 4 seeds, 0 to 3; the records hold 3 seeds, 0 to 2." in text
    assert "clreg-study run protocol.toml --seeds 3 --methods naive,ewc --scenario class\n" in text
    assert "Times of 2 kinds of machines (see below) are not comparable." in text


def test_a_protocol_of_the_package_is_named_and_shown_as_its_file(tmp_path, without_figures):
    protocol = load_protocol("digits")
    run = Run.of("digits", protocol, "task", "joint", 0)
    joint = record(toy(), "joint", accuracy=[[0.97] * 5], run=dict(run))
    write_report("digits", protocol, [joint], [], tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "clreg-study run digits --seeds 1 --methods joint\n" in text
    assert (resources.files("study.protocol") / "digits.toml").read_text() in text


def test_a_report_in_place_loses_no_record(tmp_path, without_figures):
    protocol, records = toy(), all_records(toy())
    folder = written(tmp_path, records)
    fewer = protocol.model_copy(update={"methods": {m: s for m, s in protocol.methods.items() if m != "joint"}})
    with pytest.raises(ReportError, match=r"holds the only copy of \d+ records that this report would leave out"):
        write_report("toy", fewer, read_archive(folder / ARCHIVE), [], folder, only_copy=True)
    assert len(read_archive(folder / ARCHIVE)) == len(records)


# ------------------------------------------------------------------------------- the same bytes


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_same_records_in_any_order_give_the_same_bytes(complete, tmp_path):
    again = written(tmp_path, read_archive(complete / "records.jsonl.gz")[::-1], search_records(toy())[::-1])
    first, second = contents(complete), contents(again)
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == set()
    assert {Path(name).suffix for name in first} == {".md", ".html", ".svg", ".csv", ".parquet", ".gz", ".toml"}


def test_a_new_process_writes_the_same_bytes_from_the_reports_own_archives(complete, tmp_path):
    code = (
        "import sys; from pathlib import Path; from study.records.store import read_archive\n"
        "from tests.study.report.synthetic import toy, written\n"
        "folder, out = map(Path, sys.argv[1:])\n"
        "archives = [read_archive(folder / name) for name in ('records.jsonl.gz', 'tuning.jsonl.gz')]\n"
        "written(out, *archives)\n"
        "assert 'torch' not in sys.modules, 'a report needs no torch'\n"
    )
    subprocess.run([sys.executable, "-c", code, str(complete), str(tmp_path / "again")], check=True, timeout=120)
    assert contents(tmp_path / "again") == contents(complete)


def test_the_page_and_the_figures_are_written_whole(complete):
    text = (complete / "README.md").read_text()
    named = set(re.findall(r"\(figures/([\w-]+)\.svg\)", text))
    assert named == {path.stem for path in (complete / "figures").iterdir()}
    page = (complete / "index.html").read_text()
    assert page.count("<svg") == len(named) == 8
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids)), "ids of the page must be unique"
    for reference in re.findall(r'(?:xlink:href="#|url\(#|href="#|aria-labelledby=")([^")]+)', page):
        assert reference in ids


def test_reports_of_an_earlier_time_leave_nothing_and_files_of_others_stay(tmp_path, without_figures):
    folder = written(tmp_path, all_records(toy()))
    for name in ("mine.svg", "curve-domain.svg"):
        (folder / "figures" / name).write_text("<svg/>")
    written(folder, all_records(toy()))
    assert (folder / "figures" / "mine.svg").exists()
    assert not (folder / "figures" / "curve-domain.svg").exists()


def test_a_folder_with_anything_but_a_report_is_left_as_it_is(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ReportError, match=rf"{tmp_path} is not empty .* allowed for --out: a new or empty folder"):
        written(tmp_path, all_records(toy()))
    assert contents(tmp_path) == {"README.md": b"mine"}


# ------------------------------------------------------------------------------- the protocol


def test_the_protocol_is_next_to_the_report_and_gives_the_same_report(tmp_path, without_figures):
    records = all_records(toy())
    first = written(tmp_path / "first", records)
    protocol = load_protocol(str(first / "protocol.toml"))
    assert protocol == toy()
    write_report("protocol", protocol, records, [], tmp_path / "second")
    assert contents(tmp_path / "second") == contents(first)


def digits(*overrides: str, records_of: str = "ewc") -> tuple[Protocol, list[RunRecord]]:
    """Split Digits with overrides, and one run of it."""
    protocol = load_protocol("digits", overrides)
    run = Run.of("digits", protocol, "task", records_of, 0)
    return protocol, [record(toy(), "ewc", accuracy=[[0.5] * 5] * 5, run=dict(run))]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ((), "on validation data and other seeds."),
        (("strength.ewc.task=7",), "other seeds; λ given by hand: ewc, task (7)."),
        (("training.batch_size=16",), "other seeds, but for other settings: training.batch_size (32, here 16)."),
        (
            ("methods.ewc.fisher=sample", "strength.ewc.task=7", "strength.si.task=8"),
            "other seeds, but for other settings: methods.ewc.fisher (exact, here sample); "
            "λ given by hand: ewc, task (7) and si, task (8).",
        ),
    ],
)
def test_what_was_replaced_is_not_said_to_have_been_chosen(tmp_path, without_figures, overrides, said):
    protocol, records = digits(*overrides)
    write_report("digits", protocol, records, [], tmp_path / "one")
    text = (tmp_path / "one" / "README.md").read_text()
    assert said in plain(text)
    assert ("clreg-study run digits " in text) == (not overrides)
    # and it stays true where the report is made again, from the protocol in it
    again = load_protocol(str(tmp_path / "one" / "protocol.toml"))
    for name in ("digits", "protocol"):
        write_report(name, again, records, [], tmp_path / name)
        assert said in plain((tmp_path / name / "README.md").read_text())


def test_where_every_strength_is_given_by_hand_nothing_is_said_of_the_protocols(tmp_path, without_figures):
    by_hand = [f"strength.{m}.task=3" for m in load_protocol("digits").strength]
    protocol, records = digits(*by_hand)
    write_report("digits", protocol, records, [], tmp_path)
    found = re.search(r"Source of λ: (.*)", plain((tmp_path / "README.md").read_text()))[1]
    assert found.startswith("λ given by hand: l2, task (3)")


def plain(markdown: str) -> str:
    return re.sub(r"\\([^\w\s])", r"\1", markdown)


# ------------------------------------------------------------------------------- every output


def test_what_is_special_in_markdown_and_html_is_escaped(complete):
    assert "# Toy & \\<Digits>" in (complete / "README.md").read_text()
    assert "numbers_made \\*up\\* by hand" in (complete / "README.md").read_text()
    assert "<title>Toy &amp; &lt;Digits&gt;</title>" in (complete / "index.html").read_text()
    assert TEXT.strip().splitlines()[0] in (complete / "README.md").read_text()
