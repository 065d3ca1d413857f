"""The torture itself, with small counts: it finds nothing where nothing is lost, and what is lost on purpose."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from study.records.store import RunStore
from study.report.markdown import to_markdown
from tests.study.clusters import is_busy
from tests.torture import __main__ as torture
from tests.torture import faults, fuzz, kills, scale, soak
from tests.torture.page import compose
from tests.torture.record import Measured, Tried, read
from tests.torture.small_study import LeftAlone, SmallStudy, leave_alone

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="sends signals"),
    pytest.mark.filterwarnings("ignore::FutureWarning:ray", "ignore::ResourceWarning:ray"),
]

ONE_RUN = SmallStudy(methods=("si",), scenarios=("task",), seeds=1, epochs=5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> LeftAlone:
    return leave_alone(ONE_RUN, tmp_path_factory.mktemp("alone") / "records")


@pytest.fixture
def copy(alone: LeftAlone, tmp_path: Path) -> Path:
    return shutil.copytree(alone.folder, tmp_path / "copy")


def test_a_study_whose_processes_are_killed_equals_the_one_left_alone(alone, tmp_path):
    series = kills.Kills(alone, kills.LOCAL, Random(23))  # whose first draw kills all, early in the run
    series.use_up(1, "offline", tmp_path / "killed")
    *ways, ended = series.tried()
    assert sum(each.tries for each in ways) == 1
    assert [each.wrong for each in (*ways, ended)] == [()] * 5


def test_a_fault_is_said_and_nothing_is_lost(alone, copy):
    faults.FAULTS["a record is damaged between two calls"](faults.Trial(alone, copy, Random(0)))


@pytest.mark.parametrize(
    ("title", "busy"),
    [
        ("ray::task-incremental si, seed 0", True),
        ("ray::_perform()", True),
        ("ray::IDLE", False),
        ("ray::DashboardAgent", False),
        ("ray::RuntimeEnvAgent", False),
        ("python -m study run", False),
    ],
)
def test_only_processes_with_a_run_are_workers_of_ray(title, busy):
    assert is_busy(SimpleNamespace(cmdline=title.split)) == busy


# ------------------------------------------------------------------- lost on purpose


def test_a_study_differs_from_itself_in_nothing(alone, copy):
    assert list(alone.differences(copy)) == []


def test_a_record_with_another_number_is_found(alone, copy):
    (record,) = RunStore(copy).read_all()
    record.accuracy[-1][0] += 2**-20
    RunStore(copy).write(record)
    assert list(alone.differences(copy)) == [f"{record.file_name} has other numbers", "the report has other numbers"]


def test_a_record_that_is_missing_is_found(alone, copy):
    (path,) = copy.glob("*.json")
    path.unlink()
    assert f"{path.name} is missing" in list(alone.differences(copy))


def test_a_record_that_is_damaged_is_found(alone, copy):
    (path,) = copy.glob("*.json")
    path.write_text("{}", encoding="utf-8")
    (found,) = alone.differences(copy)
    assert found.startswith("a record is damaged: ")


def test_what_is_left_behind_is_found(alone, copy):
    (copy / "under-way" / "x.pt").touch()
    (copy / "x.json.1.tmp").touch()
    assert list(alone.differences(copy)) == ["x.json.1.tmp is left", "x.pt is left"]


def test_a_run_that_wandb_lacks_is_found(alone, copy):
    assert list(alone.differences(copy, tracked=True)) == ["W&B has no finished run of task-incremental si, seed 0"]


def test_a_fault_that_is_not_said_is_found(alone, copy):
    trial = faults.Trial(alone, copy, Random(0))
    with pytest.raises(AssertionError, match="'it is damaged' was not said"):
        trial.goes_on(says="it is damaged")


PLANTED = """
import pytest
from tests.fuzzing import count_example

def test_bad():
    count_example()
    raise AssertionError("a wrong value was accepted")

def test_good():
    for _ in range(3):
        count_example()

def test_idle():
    pass
"""


def test_a_fuzz_test_that_fails_or_tries_nothing_is_found(tmp_path, monkeypatch):
    (tmp_path / "test_planted.py").write_text(PLANTED, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(fuzz.ROOT))
    monkeypatch.setattr(fuzz, "ROOT", tmp_path)
    monkeypatch.setitem(fuzz.TESTS, "test_planted.py", {name: name for name in ("test_bad", "test_good", "test_idle")})
    monkeypatch.setitem(fuzz.OF_THE_WHOLE, "test_planted.py", 1)
    assert list(fuzz.fuzz(1, 0, tmp_path, ["test_planted.py"])) == [
        Tried(what="test_bad", tries=1, wrong=("AssertionError: a wrong value was accepted",)),
        Tried(what="test_good", tries=3),
        Tried(what="test_idle", tries=0, wrong=("no example was tried",)),
    ]


def test_memory_that_grows_is_found():
    samples = [soak.Sample(done, "driver", (100 + done // 5) * 2**20, 9, 1) for done in range(501)]
    found = {each.what: each for each in soak.growth(samples, 500, bounded=True)}
    assert found["driver: memory after 500 runs"].too_much
    assert not found["driver: handles after 500 runs"].too_much
    assert found["driver: memory, slope"].value == pytest.approx(20, rel=0.01)


def test_the_page_counts_what_was_tried_and_what_was_lost_decides_the_exit_code(tmp_path, monkeypatch):
    whole = [Tried(what="driver killed", tries=3, hit=2), Measured(what="memory", value=9, unit="MiB", at_most=10)]
    worse = [Tried(what="records: damaged", tries=1200, wrong=("a wrong value was accepted",))]
    parts = {"kills": lambda *_: iter(whole), "fuzz": lambda *_: iter(worse)}
    monkeypatch.setattr(torture, "PARTS", parts)

    def page(*arguments: str) -> tuple[int, str]:
        code = torture.main([*arguments, "--out", str(tmp_path), "--cycles", "2", "--seed", "7"])
        return code, (tmp_path / "README.md").read_text(encoding="utf-8")

    code, text = page("kills")
    assert code == 0
    assert "3 kills at random moments (2 of them while a run was in progress): nothing was lost." in text
    assert "| driver killed | 3 | 2 | nothing |" in text
    assert "python -m tests.torture kills --cycles 2 --seed 7" in text
    code, text = page("fuzz")
    assert code == 1
    assert "and 1,200 damaged files and wrong inputs: 1 thing went wrong, listed below." in text
    assert "fuzz: records: damaged: a wrong value was accepted" in text
    assert list(read(tmp_path).parts) == ["kills", "fuzz"], "the part of before is lost"


def test_a_part_that_there_is_not_is_named(capsys):
    with pytest.raises(SystemExit, match="2"):
        torture.main(["kill"])
    assert "unknown part 'kill'; allowed: kills, faults, fuzz, soak, scale" in capsys.readouterr().err


# ----------------------------------------------------------------------- every part


def no_loss(found: Iterator[Tried | Measured]) -> list[Tried]:
    tried = [each for each in found if isinstance(each, Tried)]
    assert [(each.what, each.wrong) for each in tried if each.wrong] == []
    assert all(each.tries for each in tried if each.hit is None)
    return tried


@pytest.mark.slow
def test_kills_on_the_local_pool_and_on_ray(tmp_path):
    assert sum(each.tries for each in no_loss(kills.kills(4, 0, tmp_path, ONE_RUN)) if each.hit is not None) == 4


@pytest.mark.slow
@pytest.mark.parametrize("what", faults.FAULTS)
def test_every_fault(tmp_path, what):
    (tried,) = no_loss(faults.faults(1, 0, tmp_path, [what]))
    assert tried.tries == 1


@pytest.mark.slow
def test_a_few_examples_of_every_fuzz_test(tmp_path):
    tried = no_loss(fuzz.fuzz(1, 0, tmp_path))
    assert all(each.tries >= 9 for each in tried), tried


@pytest.mark.slow
def test_many_runs_in_one_call(tmp_path):
    assert [each.tries for each in no_loss(soak.soak(1, 0, tmp_path))] == [5]
    assert [each.tries for each in no_loss(scale.scale(1, 0, tmp_path, ["the local pool"]))] == [100]


def test_the_committed_page_is_that_of_its_record_and_nothing_was_lost():
    folder = Path(__file__).parents[2] / "reports" / "reliability"
    found = read(folder)
    assert set(found.parts) == set(torture.PARTS)
    assert not found.wrong
    assert (folder / "README.md").read_text(encoding="utf-8") == to_markdown(compose(found))
