"""What people say to a report stands at its head and beside the numbers, and survives that the report is made again."""

import re
from importlib import resources
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.cli.app import app
from study.protocol.load import load_protocol, parse_protocol
from study.records.run_record import RunRecord
from study.records.store import ARCHIVE, read_archive
from study.report.attachments import read_attachments
from study.report.conclusions import ConclusionError
from study.report.overview import write_overview
from study.report.provenance import changes
from study.report.selection import ReportError
from study.report.write_report import write_report
from study.run.specification import Run
from tests.study.report.reading import markdown_tables, row
from tests.study.report.synthetic import TEXT as TEXT_OF_TOY
from tests.study.report.synthetic import all_records, record, toy, written

TEXT = """
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


def test_they_stand_at_the_head_and_beside_the_numbers(with_conclusions):
    text = (with_conclusions / "README.md").read_text()
    assert text.index("**Which one:** the `ewc` of two lines.") < text.index("## Summary")
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
        ("[[explaned]]", "unknown key 'explaned'; did you mean 'explained'?"),
        ("x =", "is not TOML"),
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
        made = record(toy(), "naive", accuracy=[[0.9346] * 5] * 5)
        records.append(RunRecord.model_validate(made.model_dump() | {"run": run, "id": run.id}))
    write_report(name, protocol, records, [], tmp_path / "ewc")
    found = markdown_tables(tmp_path / "ewc")["Task-incremental: published and our average accuracy"]
    verdicts = {cells[0]: cells[1] for cells in found[1:]}
    assert (verdicts["ewc"], verdicts["naive"]) == ("other settings", "inconclusive")
    text = (tmp_path / "ewc" / "README.md").read_text()
    assert "λ 200, here 100" in text

    shorter = load_protocol(name, ["training.epochs=1"])
    run = Run.of(name, shorter, "task", "naive", 0)
    changed = RunRecord.model_validate(records[0].model_dump() | {"run": run, "id": run.id})
    write_report(name, shorter, [changed], [], tmp_path / "short")
    text = (tmp_path / "short" / "README.md").read_text()
    assert "differs from the packaged one in training.epochs 4, here 1." in text
    counts = row(markdown_tables(tmp_path / "short"), "Runs and verdicts", "task")
    assert (counts["no finished run"], counts["other settings"]) == ("8", "1")


def test_nor_in_whatever_file_the_changed_protocol_stands(tmp_path, without_figures):
    """Real records, as if λ of EWC had been changed by --set, reported by name and from the report's own folder."""
    name = "hsu2018-split-mnist-task"
    protocol = load_protocol(name, ["strength.ewc.task=100"])
    records = read_archive(REPORTS / "hsu2018-split-mnist" / "task" / ARCHIVE)
    changed = [
        r.model_copy(update={"run": r.run.model_copy(update={"strength": 100.0})}) if r.run.label == "ewc" else r
        for r in records
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
    rows = markdown_tables(tmp_path / "reports")["Published and ours"]
    verdict = rows[0].index("verdict")
    assert {cells[verdict] for cells in rows[1:] if "ewc" in cells and "online_ewc" not in cells} == {"other settings"}


def test_a_number_that_no_protocol_of_the_package_has_is_judged_as_its_file_says(tmp_path, without_figures):
    name = "hsu2018-split-mnist-task"
    text = (resources.files("study.protocol") / f"{name}.toml").read_text()
    own = parse_protocol(
        text.replace("Hsu et al. 2018, arXiv", "Ours, after arXiv").replace("\newc.task = 200", "\newc.task = 100"),
        "own.toml",
    )
    (table,) = own.published
    assert changes(own, table, "task", "ewc") == ""
    assert "λ 200, here 100" in changes(
        load_protocol(name, ["strength.ewc.task=100"]), load_protocol(name).published[0], "task", "ewc"
    )


# ------------------------------------------------------------------------------- the overview


def test_the_overview_has_every_published_number_with_its_verdict(with_conclusions):
    other = with_conclusions.parent / "nested" / "other"
    written(other, all_records(toy(), seeds=1))
    page = write_overview(with_conclusions.parent)
    text = page.read_text()
    assert "**[Which one](toy/README.md):** the `ewc` of two lines." in text, "with a link to the report that says so"
    found = markdown_tables(with_conclusions.parent)["Published and ours"][1:]
    ours = markdown_tables(with_conclusions)[PUBLISHED][1:]
    assert len(found) == 2 * 5
    of_toy = [cells for cells in found if "toy/README.md" in cells[0] and cells[1] == "class"]
    # the same numbers as in the report, in its order: method, published, ours, verdict
    assert [(c[2], c[3], c[4], c[7]) for c in of_toy] == [(c[0], c[3], c[4], c[2]) for c in ours]
    assert [c[8] for c in of_toy if c[2] in ("ewc", "joint")] == ["the network is another"] * 2
    assert "[nested/other](nested/other/README.md)" in text
    assert "5 published numbers in 10 comparisons" in text, "the same numbers in two reports count once"
    assert {c[9] for c in found} == {"Somebody 2018, Table 2, https://example.org/table_2", "Somebody else 2019"}
    one_seed = [c for c in found if "nested" in c[0]]
    assert {c[5] for c in one_seed} == {"1 of 4"}
    counts = row(
        markdown_tables(with_conclusions.parent),
        "Runs and verdicts by report",
        "[nested/other](nested/other/README.md)",
    )
    assert counts["runs finished"] == "10 of 40"


def test_a_number_without_a_run_is_not_tried_and_one_beside_two_methods_counts_once(tmp_path, without_figures):
    """EWC twice, with two Fishers, beside the number published for EWC; and no run of joint training."""
    another = TEXT_OF_TOY.replace(
        'ewc = { kind = "ewc", fisher = "exact" }',
        'ewc = { kind = "ewc", fisher = "exact" }\newc-empirical = { kind = "ewc", fisher = "empirical" }',
    ).replace("[strength]", "[strength]\newc-empirical = { task = 100, class = 100 }")
    another = another.replace(
        "joint = { class = { mean = 99.5, spread = 0.2 } }",
        """ewc-empirical = { class = { mean = 61.5, spread = 3.0 } }
        online_ewc = { class = { mean = 61.5, spread = 3.0 } }
        joint = { class = { mean = 99.5, spread = 0.2 } }""",
    )
    protocol = toy(another)
    records = [r for r in all_records(toy()) if r.run.label != "joint"]
    as_empirical = []
    for r in records:
        if (r.run.label, r.run.scenario) == ("ewc", "class"):
            run = Run.of("toy", protocol, "class", "ewc-empirical", r.run.seed)
            as_empirical.append(r.model_copy(update={"run": run, "id": run.id}))
    folder = written(tmp_path / "reports" / "toy", [*records, *as_empirical], protocol=protocol)
    write_overview(tmp_path / "reports")
    assert row(markdown_tables(folder), "Runs and verdicts", "class")["no finished run"] == "1"
    text = (tmp_path / "reports" / "README.md").read_text()
    assert "6 published numbers in 7 comparisons" in text, "Online EWC has a number of its own"


def test_an_overview_needs_reports_and_is_none_itself(with_conclusions, tmp_path):
    with pytest.raises(ReportError, match="there is no report in any folder below"):
        write_overview(tmp_path / "nothing")
    with pytest.raises(ReportError, match="is a report; allowed: a folder with reports"):
        write_overview(with_conclusions)
