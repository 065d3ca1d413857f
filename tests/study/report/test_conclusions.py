"""What people say to a report stands at its head and with the numbers, and a report made again keeps it."""

import re
from importlib import resources
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.cli.app import app
from study.protocol.load import load_protocol, parse_protocol
from study.records.run_record import RunRecord
from study.records.store import ARCHIVE, read_archive
from study.report.attachments import ConclusionError, read_attachments
from study.report.overview import write_overview
from study.report.provenance import changes
from study.report.selection import ReportError
from study.report.write_report import write_report
from study.run.specification import Run, identity
from tests.study.report.reading import markdown_tables, row
from tests.study.report.synthetic import all_records, record, toy, written

TEXT = """
answer = "It holds."

[[stated]]
lead = "Which one"
text = '''
the `ewc` of
two lines.'''

[[explained]]
scenario = "class"
methods = ["ewc", "joint"]
why = "the network is another"
"""
REPORTS = Path(__file__).parents[3] / "reports"
PUBLISHED = "Class-incremental: published and our average accuracy"


@pytest.fixture
def with_conclusions(tmp_path, without_figures) -> Path:
    folder = tmp_path / "reports" / "toy"
    folder.mkdir(parents=True)
    (folder / "conclusions.toml").write_text(TEXT)
    return written(folder, all_records(toy()))


def test_they_are_at_the_head_and_next_to_the_numbers(with_conclusions):
    text = (with_conclusions / "README.md").read_text()
    assert text.splitlines()[2] == "It holds."
    assert text.index("**Which one:** the `ewc` of two lines.") < text.index("<b>Results</b>")
    tables = markdown_tables(with_conclusions)
    assert [row(tables, PUBLISHED, method)["why"] for method in ("naive", "ewc", "joint")] == [
        "",
        "the network is another",
        "the network is another",
    ]
    assert "why" not in tables["Task-incremental: published and our average accuracy"][0]


def test_a_report_made_again_keeps_them_wherever_it_is_written(with_conclusions, tmp_path, without_figures):
    protocol = tmp_path / "toy.toml"
    protocol.write_text((with_conclusions / "protocol.toml").read_text())
    again = tmp_path / "again"
    for out in (again, with_conclusions):
        call = ["report", str(protocol), "--records", str(with_conclusions), "--out", str(out)]
        result = CliRunner().invoke(app, call)
        assert result.exit_code == 0, result.output
        assert (out / "conclusions.toml").read_text() == TEXT
        assert "**Which one:**" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[stated]]\nlead = 'x'", "stated.0.text is missing"),
        ("[[stated]]\nlead = ''\ntext = 'x'", "allowed: any text but an empty one"),
        (f"answer = '{'word ' * 26}'", "answer = 'word word"),
        ("[[explaned]]", "unknown key 'explaned'; did you mean 'explained'?"),
        ("x =", "is not TOML"),
        ("answer = " + "9" * 5000, "is not TOML"),
        ("answer = " + "[" * 20000, "is not TOML"),
        (
            TEXT + '[[explained]]\nscenario = "class"\nmethods = ["joint"]\nwhy = "another reason"',
            "explained holds class, 'joint' twice, with why = 'the network is another' and why = 'another reason'",
        ),
        (TEXT.replace('"joint"', '"ewc"'), "explained holds class, 'ewc' twice"),
        (TEXT.replace('"joint"', '"replay"'), "holds 'replay', for which no class-incremental number is published"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, text, message):
    (tmp_path / "conclusions.toml").write_text(text)
    with pytest.raises(ConclusionError, match=re.escape(message)) as error:
        read_attachments([tmp_path], toy())
    assert str(tmp_path) in str(error.value)


# ------------------------------------------------------------------------------- other settings than the published


def test_a_number_is_not_judged_where_set_has_changed_the_settings(tmp_path, without_figures):
    name, overrides = "hsu2018-split-mnist-task", ["strength.ewc.task=100"]
    protocol = load_protocol(name, overrides)
    records = []
    for method in ("naive", "ewc"):
        run = Run.of(name, protocol, "task", method, 0)
        records.append(record(toy(), "naive", accuracy=[[0.9346] * 5] * 5, run=dict(run)))
    write_report(name, protocol, records, [], tmp_path / "ewc")
    found = markdown_tables(tmp_path / "ewc")["Task-incremental: published and our average accuracy"]
    verdicts = {cells[0]: cells[1] for cells in found[1:]}
    assert (verdicts["ewc"], verdicts["naive"]) == ("other settings", "inconclusive")
    text = (tmp_path / "ewc" / "README.md").read_text()
    assert "λ (200, here 100)" in text

    shorter = load_protocol(name, ["training.epochs=1"])
    run = Run.of(name, shorter, "task", "naive", 0)
    changed = RunRecord.model_validate(records[0].model_dump() | {"run": run, "id": run.id})
    write_report(name, shorter, [changed], [], tmp_path / "short")
    text = (tmp_path / "short" / "README.md").read_text()
    assert "the packaged protocol except for training.epochs (4, here 1)." in text
    assert "1 other settings, 8 no finished run" in text


def test_nor_in_whatever_file_the_changed_protocol_stands(tmp_path, without_figures):
    """Real records, as if λ of EWC had been changed by --set, reported by name and from the report's own folder."""
    name = "hsu2018-split-mnist-task"
    protocol = load_protocol(name, ["strength.ewc.task=100"])
    records = read_archive(REPORTS / "hsu2018-split-mnist" / "task" / ARCHIVE)
    weaker = {"strength": 100.0}
    runs = [r.run.model_copy(update=weaker if r.run.label == "ewc" else {}) for r in records]
    changed = [
        record.model_copy(update={"run": run, "id": identity(run.model_dump(mode="json"), record.versions)})
        for record, run in zip(records, runs, strict=True)
    ]
    write_report(name, protocol, changed, [], tmp_path / "reports" / "by-name")
    again = tmp_path / "reports" / "from-its-file"
    file = tmp_path / "reports" / "by-name" / "protocol.toml"
    result = CliRunner().invoke(app, ["report", str(file), "--records", str(file.parent), "--out", str(again)])
    assert result.exit_code == 0, result.output
    for folder in (file.parent, again):
        tables = markdown_tables(folder)["Task-incremental: published and our average accuracy"]
        verdicts = {cells[0]: cells[1] for cells in tables[1:]}
        assert (verdicts["ewc"], verdicts["joint"]) == ("other settings", "reproduced")
    write_overview(tmp_path / "reports")
    counts = markdown_tables(tmp_path / "reports")["Published numbers by verdict"]
    column = counts[0].index("other settings")
    assert [cells[column] for cells in counts[1:]] == ["1", "1"]


def test_a_number_that_no_protocol_of_the_package_has_is_judged_as_its_file_says(tmp_path, without_figures):
    name = "hsu2018-split-mnist-task"
    text = (resources.files("study.protocol") / f"{name}.toml").read_text()
    own = parse_protocol(
        text.replace("Hsu et al. 2018, arXiv", "Ours, after arXiv").replace("\newc.task = 200", "\newc.task = 100"),
        "own.toml",
    )
    (table,) = own.published
    assert changes(own, table, "task", "ewc") == ""
    assert "λ (200, here 100)" in changes(
        load_protocol(name, ["strength.ewc.task=100"]), load_protocol(name).published[0], "task", "ewc"
    )


# ------------------------------------------------------------------------------- the overview


def test_the_overview_counts_verdicts_by_report_and_links_to_each(with_conclusions):
    folder = with_conclusions.parent
    written(folder / "nested" / "other", all_records(toy(), seeds=1))
    text = write_overview(folder).read_text()
    tables = markdown_tables(folder)
    of_toy = row(tables, "Published numbers by verdict", "[Toy & <Digits>](toy/README.md)")
    verdicts = [
        cells[2]
        for caption, rows in markdown_tables(with_conclusions).items()
        for cells in rows[1:]
        if "incremental: published" in caption
    ]
    for verdict in set(verdicts):
        assert of_toy[verdict] == str(verdicts.count(verdict))
    assert of_toy["runs finished"] == "40"
    other = row(tables, "Published numbers by verdict", "[Toy & <Digits>](nested/other/README.md)")
    assert (other["runs finished"], other["inconclusive"]) == ("10 of 40", "5")
    assert "- **[toy](toy/README.md):** It holds." in text, "what the report answers"
    above = text[: text.index("<details>")].splitlines()
    prose = [line for line in above if not line.startswith("|")]
    assert max(len(line.split()) for line in prose) <= 25 + 2


def test_an_overview_needs_reports_and_is_none_itself(with_conclusions, tmp_path):
    with pytest.raises(ReportError, match="there is no report in any folder below"):
        write_overview(tmp_path / "nothing")
    with pytest.raises(ReportError, match="is a report; allowed: a folder with reports"):
        write_overview(with_conclusions)


def test_an_overview_replaces_an_overview_and_no_other_page(with_conclusions):
    page = write_overview(with_conclusions.parent)
    assert write_overview(with_conclusions.parent) == page
    page.write_text("# My project")
    with pytest.raises(ReportError, match="is the page of something else"):
        write_overview(with_conclusions.parent)
    assert page.read_text() == "# My project"
