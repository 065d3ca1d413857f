"""Two sets of runs against each other: like with like, and as much said as the seeds allow."""

import io

import pytest
from rich.console import Console
from scipy import stats

from study.errors import StudyError
from study.records.run_record import RunRecord
from study.report.study_comparison import comparison_table
from tests.study.report.synthetic import failed, record, toy


def shown(*sides: tuple[str, list[RunRecord], str | None], width: int = 200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(comparison_table(*sides))
    return console.export_text()


def cells(text: str, name: str) -> list[str]:
    """A row's cells after its name."""
    (line,) = [line for line in text.splitlines() if line.strip().startswith(f"{name}  ")]
    return [cell.strip() for cell in line.strip().removeprefix(name).split("  ") if cell.strip()]


def runs(method: str, accuracies: list[float], **changes: object) -> list[RunRecord]:
    return [
        record(
            toy(),
            method,
            seed=seed,
            accuracy=[[a, a]] if method == "joint" else [[0.9, 0.0], [a, a]],
            ended=f"2026-03-02T00:00:{seed:02}+00:00",
            **changes,
        )
        for seed, a in enumerate(accuracies)
    ]


BETTER = [0.61, 0.63, 0.60, 0.64, 0.62, 0.60, 0.65, 0.61]
WORSE = [0.50, 0.51, 0.52, 0.49, 0.53, 0.50, 0.51, 0.54]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"strength": 7.0}, r"strength \(100, 7\)"),
        ({"training": toy().training.model_copy(update={"epochs": 3})}, r"training.epochs \(1, 3\)"),
        ({"device": "cuda"}, r"device \(cpu, cuda\)"),
        ({"method": toy().methods["ewc"].model_copy(update={"fisher": "sample"})}, r"method.fisher \(exact, sample\)"),
    ],
)
def test_runs_of_several_settings_under_one_label_are_an_error_that_names_what_differs(change, said):
    mixed = [*runs("ewc", BETTER), *runs("ewc", BETTER, run=change)]
    with pytest.raises(StudyError, match=rf"runs/a has class-incremental runs of 'ewc' that differ in {said}"):
        shown(("runs/a", mixed, "ewc"), ("runs/a", [*mixed, *runs("naive", WORSE)], "naive"))


def test_settings_of_methods_that_are_not_compared_do_not_matter():
    mixed = [*runs("ewc", BETTER), *runs("ewc", BETTER, run={"strength": 7.0})]
    text = shown(("a", [*mixed, *runs("joint", BETTER)], "joint"), ("b", runs("naive", WORSE), "naive"))
    assert cells(text, "class, joint − naive")[0] == "8"


def test_other_data_cannot_be_compared():
    data = toy().benchmark.model_copy(update={"padding": 2})
    with pytest.raises(StudyError, match=r"a and b cannot be compared: .* benchmark.padding \(0, 2\)"):
        shown(("a", runs("ewc", BETTER), None), ("b", runs("ewc", WORSE, run={"benchmark": data}), None))


def test_what_two_studies_differ_in_is_named_with_the_rows_where_they_do():
    a = [*runs("ewc", BETTER), *runs("naive", WORSE)]
    other = {"training": toy().training.model_copy(update={"epochs": 3})}
    text = " ".join(shown(("a", a, None), ("b", runs("ewc", WORSE, run=other | {"strength": 7.0}), None)).split())
    assert "A and B differ in training.epochs (1, 3); strength (100, 7)." in text
    b = [*runs("ewc", WORSE, run={"strength": 7.0}), *runs("naive", WORSE)]
    assert "A and B differ in strength (100, 7): class, ewc." in " ".join(shown(("a", a, None), ("b", b, None)).split())
    assert "A and B differ" not in shown(("a", a, None), ("b", a, None))


def test_tests_and_effect_size_stand_next_to_the_difference():
    text = shown(("a", runs("ewc", BETTER), "ewc"), ("b", runs("naive", WORSE), "naive"))
    n, _, _, difference, p, p_holm, p_wilcoxon, effect = cells(text, "class, ewc − naive")
    assert (n, difference.split()[0], p, p_holm) == ("8", "+10.75", "0.008", "0.008*")
    assert p_wilcoxon == f"{stats.wilcoxon([a - b for a, b in zip(BETTER, WORSE, strict=True)]).pvalue:.3f}"
    assert float(effect) > 3
    assert "exact sign-flip permutation test" in " ".join(text.split())
    swapped = shown(("a", runs("naive", WORSE), "naive"), ("b", runs("ewc", BETTER), "ewc"))
    assert "−10.75" in swapped
    assert "-10" not in swapped, "a minus sign is no hyphen"


@pytest.mark.parametrize(("seeds", "has_effect"), [(1, False), (2, False), (4, True)])
def test_too_few_seeds_get_no_star_and_a_note_that_says_how_many_it_takes(seeds, has_effect):
    text = shown(("a", runs("ewc", BETTER[:seeds]), "ewc"), ("b", runs("naive", WORSE[:seeds]), "naive"))
    assert cells(text, "class, ewc − naive")[0] == str(seeds)
    assert "*" not in text
    text = " ".join(text.split())
    assert f"Too few seeds ({seeds}): smallest reachable p = {2 / 2**seeds:.3f}" in text
    assert "6 seeds could reach 0.05" in text
    assert ("effect size" in text) == has_effect, "a column without a number is left out"
    assert "nan" not in text


def test_the_family_decides_how_many_seeds_are_too_few():
    both = [*runs("ewc", BETTER[:6]), *runs("naive", WORSE[:6])]
    worse = [*runs("ewc", WORSE[:6]), *runs("naive", BETTER[:6])]
    assert "Too few seeds (6)" in " ".join(shown(("a", both, None), ("b", worse, None)).split())
    assert "0.031*" in cells(shown(("a", both, "ewc"), ("b", worse, "ewc")), "class, ewc")


@pytest.mark.parametrize(("seeds", "exact"), [(40, True), (41, False)])
def test_the_test_is_called_exact_only_where_it_is(seeds, exact):
    text = shown(("a", runs("ewc", (BETTER * 9)[:seeds]), None), ("b", runs("ewc", (WORSE * 9)[:seeds]), None))
    assert ("exact" in text) == exact


def test_a_later_failure_does_not_hide_the_result_of_a_run():
    later = failed(toy(), "ewc", 0, ended="2027-01-01T00:00:00+00:00", id="0123456789abcdef")
    text = shown(("a", [*runs("ewc", BETTER), later], None), ("b", runs("ewc", WORSE), None))
    assert cells(text, "class, ewc")[0] == "8"


def test_names_are_shown_as_they_are_and_all_of_it_fits_a_narrow_terminal():
    text = shown(("[draft]", runs("ewc", BETTER), None), ("[/digits]", runs("ewc", WORSE), None), width=80)
    assert "A = [draft], B = [/digits]" in text
    assert "…" not in text
    assert "Wilcoxon" in text.split("───")[0]
