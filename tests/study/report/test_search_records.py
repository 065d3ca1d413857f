"""Where `--tuning`, or its absence, finds the records of a search."""

import pytest

from study.cli.folders import tuning_records
from study.errors import MissingRecords
from study.records.store import RunStore
from tests.study.report.synthetic import all_records, search_records, toy, written


@pytest.fixture
def searched(tmp_path, monkeypatch, without_figures):
    """In the current folder: a report on the toy protocol with its search in reports/x."""
    monkeypatch.chdir(tmp_path)
    return written(tmp_path / "reports" / "x", all_records(toy()), search_records(toy()))


def test_a_report_gives_its_search_again(searched):
    assert tuning_records("toy", searched) == search_records(toy())
    assert tuning_records("toy", None, archived_in=searched) == search_records(toy())


def test_the_default_folder_may_be_missing_or_empty_and_goes_after_a_reports_own(searched, tmp_path):
    runs, search = tmp_path / "runs" / "toy", tmp_path / "runs" / "toy-tuning"
    assert tuning_records("toy", None) == []
    search.mkdir(parents=True)
    assert tuning_records("toy", None) == []
    one = search_records(toy())[0]
    RunStore(search).write(one)
    assert tuning_records("toy", None, archived_in=runs) == [one]
    assert len(tuning_records("toy", None, archived_in=searched)) > 1


def test_a_named_folder_without_a_search_is_an_error(searched, tmp_path):
    (tmp_path / "empty").mkdir()
    for record in all_records(toy(), 1):
        RunStore(tmp_path / "runs").write(record)
    for folder in ("nowhere", "empty", "runs"):
        with pytest.raises(MissingRecords, match=rf"no records of a search in .*{folder}$") as error:
            tuning_records("toy", tmp_path / folder)
        assert error.value.written_by == "tune"
