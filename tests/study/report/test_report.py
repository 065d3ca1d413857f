"""What a report says equals what the records say, worked out here in other ways, and the same in all outputs."""

import itertools
import json

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.power import TTestPower

from study.report.analysis import analyse
from study.report.comparisons import equivalence_notes
from study.report.sections.pairs_section import leading_pairs
from study.report.selection import ReportError, select
from study.statistics import compare_paired, family
from tests.study.report.reading import html_tables, markdown_tables, row
from tests.study.report.synthetic import (
    LAST,
    LEARNED_FIRST,
    TEXT,
    all_records,
    failed,
    record,
    search_records,
    toy,
    written,
)

PUBLISHED = "Class-incremental: published and our average accuracy"
RESULTS = "Class-incremental: what each method reached"
PAIRS = "Class-incremental: differences of average accuracy, in percentage points"
FIRST_PAIRS = "Method against method: differences of average accuracy, in percentage points"
SEARCH = "Class-incremental: the search for λ"
COST = "Class-incremental: time and memory of a run"
VERDICTS = "Published and ours"
UNFINISHED = "Runs that diverged or failed"


def accuracies(method: str) -> np.ndarray:
    return 100 * np.array(LAST[method]).mean(axis=1)


def minus(text: str) -> str:
    return text.replace("-", "−")


def mean_and_interval(values: np.ndarray) -> str:
    low, high = stats.t.interval(0.95, len(values) - 1, values.mean(), stats.sem(values))
    return minus(f"{values.mean():.2f} [{low:.2f}, {high:.2f}]")


def test_all_outputs_have_the_same_tables_with_the_same_cells(complete):
    of_html = html_tables(complete)
    assert len(of_html) == 14
    assert markdown_tables(complete) == of_html


@pytest.mark.parametrize("method", LAST)
def test_means_and_intervals_are_those_of_the_finished_runs(complete, method):
    found = row(markdown_tables(complete), RESULTS, method)
    assert found["average accuracy %"] == mean_and_interval(accuracies(method))
    first, second = 100 * np.array(LAST[method]).T
    if method == "joint":
        assert found["forgetting %"] == found["backward transfer %"] == found["learning accuracy %"] == "–"
    else:
        learned = 100 * np.array(LEARNED_FIRST)
        assert found["forgetting %"] == mean_and_interval(learned - first)
        assert found["backward transfer %"] == mean_and_interval(first - learned)
        assert found["learning accuracy %"] == mean_and_interval((learned + second) / 2)


def test_runs_that_did_not_finish_are_counted_and_listed_and_enter_no_mean(complete):
    tables = markdown_tables(complete)
    assert row(tables, RESULTS, "ewc")["seeds"] == "4, 1 failed"
    assert row(tables, RESULTS, "naive")["seeds"] == "4, 1 diverged"
    assert row(tables, RESULTS, "joint")["seeds"] == "4"
    message = "RuntimeError: x_1 | <y> & 50% of {z}"
    assert tables[UNFINISHED][1:] == [
        ["class", "naive", "5", "diverged", "1", message],
        ["class", "ewc", "4", "failed", "1", message],
    ]
    assert "4 seeds; 40 runs finished, 1 diverged, 1 failed; " in (complete / "README.md").read_text()


def test_options_times_and_memory_are_those_of_the_records(complete):
    tables = markdown_tables(complete)
    assert [row(tables, RESULTS, method)["λ"] for method in LAST] == ["–", "100", "1e6", "–", "–"]
    ewc = row(tables, COST, "ewc")
    # two experiences, of 1 + seed seconds each, over the seeds 0 to 3
    assert (ewc["training, s"], ewc["consolidation, s"], ewc["evaluation, s"]) == ("5.00", "0.50", "1.00")
    assert ewc["a run, s"] == "6.50"
    assert (ewc["peak memory, MiB"], ewc["examples stored"]) == ("601", "–")
    assert (ewc["state, KiB"], ewc["scratch, KiB"]) == ("2.00", "5.00")
    assert row(tables, COST, "replay-2")["examples stored"] == "32"
    assert row(tables, COST, "joint")["training, s"] == "2.50"


# ------------------------------------------------------------------------------- against published numbers


def welch(ours: np.ndarray, mean: float, sd: float, n: int, margin: float) -> tuple[float, float]:
    """p of Welch's test and of the equivalence test, by scipy from summary statistics."""

    def test(shift: float, alternative: str) -> float:
        return stats.ttest_ind_from_stats(
            ours.mean() + shift,
            ours.std(ddof=1),
            len(ours),
            mean,
            sd,
            n,
            equal_var=False,
            alternative=alternative,
        ).pvalue

    return test(0.0, "two-sided"), max(test(margin, "greater"), test(-margin, "less"))


def p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


@pytest.mark.parametrize(
    ("method", "mean", "sd", "verdict"),
    [("naive", 50.5, 1.0, "reproduced"), ("ewc", 61.5, 2.0, "inconclusive"), ("joint", 99.5, 0.2, "below")],
)
def test_verdicts_follow_from_the_tests(complete, method, mean, sd, verdict):
    found = row(markdown_tables(complete), PUBLISHED, method)
    p, p_tost = welch(accuracies(method), mean, sd, 10, 1.5)
    expected = "reproduced" if p_tost < 0.05 else "inconclusive" if p >= 0.05 else "below"
    assert found["verdict"] == expected == verdict
    assert (found["p (Welch)"], found["p (TOST)"]) == (p_text(p), p_text(p_tost))
    assert found["published %"] == f"{mean:.2f} ± {sd:.2f}"
    assert found["ours %, 95% interval"] == mean_and_interval(accuracies(method))
    difference = accuracies(method).mean() - mean
    assert found["difference, 95% interval"].split()[0] == minus(f"{difference:+.2f}")
    assert found["margin"] == "1.5"


def test_a_number_without_a_spread_is_taken_as_exact_and_so_said(complete):
    found = row(markdown_tables(complete), PUBLISHED, "replay-2")
    ours = accuracies("replay-2")
    assert (found["source"], found["published %"], found["margin"]) == ("2", "79.00", "1.5")
    assert found["p (Welch)"] == p_text(stats.ttest_1samp(ours, 79.0).pvalue)
    assert found["verdict"] == "above"
    assert "taken as exact" in found["limited by"]


def test_a_number_of_a_method_without_a_finished_run_is_not_judged(tmp_path, without_figures):
    protocol = toy()
    records = [r for r in all_records(protocol) if r.run.label != "joint"]
    folder = written(tmp_path, [*records, failed(protocol, "joint", 0)])
    found = row(markdown_tables(folder), PUBLISHED, "joint")
    assert (found["verdict"], found["seeds"], found["p (TOST)"]) == ("no finished run", "0 of 4", "–")
    reached = row(markdown_tables(folder), RESULTS, "joint")
    assert (reached["seeds"], reached["average accuracy %"]) == ("0 of 4, 1 failed", "–")
    assert "1 no finished run" in (folder / "README.md").read_text()


# ------------------------------------------------------------------------------- method against method


def sign_flip_p(a: np.ndarray, b: np.ndarray) -> float:
    d = (a - b).round(9)
    flipped = [abs(np.dot(signs, d)) for signs in itertools.product((-1, 1), repeat=len(d))]
    return float(np.mean(np.array(flipped) >= abs(d.sum()) - 1e-9))


def test_pairs_are_tested_by_flipping_signs_and_too_few_seeds_get_no_star(complete):
    tables = markdown_tables(complete)
    assert len(tables[PAIRS]) == 1 + 10
    a, b = accuracies("ewc"), accuracies("naive")
    found = row(tables, PAIRS, "ewc − naive")
    assert found["difference, 95% interval"] == "+" + mean_and_interval(a - b)
    assert found["p"] == p_text(sign_flip_p(a, b)) == "0.125"
    assert (found["p (Holm)"], found["seeds"], found["finding"]) == ("1.000", "4", "too few seeds (4)")
    assert "detectable difference" not in found
    text = (complete / "README.md").read_text()
    assert "Too few seeds (4): smallest reachable p = 0.125" in text
    assert "differ significantly" not in text
    assert {cells[1] for cells in tables[PAIRS][1:]} == {"too few seeds (4)"}


def test_with_enough_seeds_differences_get_a_star_after_holms_correction(tmp_path, without_figures):
    protocol = toy()
    ewc = [0.60, 0.61, 0.59, 0.62, 0.60, 0.58, 0.63, 0.60]
    up_and_down = [0.03, -0.02, 0.01, -0.03, 0.02, -0.01, 0.04, -0.02]
    scores = {
        "naive": [0.50, 0.52, 0.51, 0.49, 0.50, 0.53, 0.47, 0.50],
        "ewc": ewc,
        "online_ewc": [a + b for a, b in zip(ewc, up_and_down, strict=True)],
    }
    records = [
        record(
            protocol,
            method,
            seed=seed,
            accuracy=[[0.9, 0.0], [value, value]],
            ended=f"2026-03-02T00:00:{seed:02}+00:00",
        )
        for method, values in scores.items()
        for seed, value in enumerate(values)
    ]
    folder = written(tmp_path, records)
    tables = markdown_tables(folder)
    vectors = {method: 100 * np.array(values) for method, values in scores.items()}
    raw = [sign_flip_p(vectors[a], vectors[b]) for a, b in itertools.combinations(vectors, 2)]
    order = np.argsort(raw)
    holm = dict(
        zip(order, np.maximum.accumulate([min(1.0, raw[i] * (3 - k)) for k, i in enumerate(order)]), strict=True)
    )
    assert holm[0] <= 0.05
    assert holm[1] <= 0.05 < holm[2]
    for index, (b, a) in enumerate(itertools.combinations(vectors, 2)):
        found = row(tables, PAIRS, f"{a} − {b}" if b == "naive" else f"{b} − {a}")
        assert (found["p"], found["p (Holm)"]) == (p_text(raw[index]), p_text(holm[index]) + ("*" if index < 2 else ""))
        assert found["finding"] == (f"{a} higher" if index < 2 else "no difference shown")
        assert found["p (Wilcoxon)"] == p_text(stats.wilcoxon((vectors[a] - vectors[b]).round(9)).pvalue)
        effect = TTestPower().solve_power(nobs=8, alpha=0.05 / 3, power=0.8)
        assert found["detectable difference"] == f"{effect * (vectors[a] - vectors[b]).std(ddof=1):.2f}"
    text = (folder / "README.md").read_text()
    assert "exact sign-flip permutation test" in text
    assert "2 of 3 pairs of methods differ significantly." in text


def test_a_family_with_a_margin_says_which_methods_are_equivalent(tmp_path, without_figures):
    compared = ["naive", "online_ewc", "replay-2"]
    named = f'[comparisons]\nbaselines = ["ewc"]\nmethods = {json.dumps(compared)}\nmargin = 2\n\n[model]'
    protocol = toy(TEXT.partition("[[published]]")[0].replace("[model]", named))
    rng = np.random.default_rng(1)
    ewc = 60 + rng.normal(0, 1, 8)
    d = {"naive": rng.normal(-10, 1, 8), "online_ewc": rng.normal(0, 1, 8), "replay-2": rng.normal(1, 0.1, 8)}
    scores = {"ewc": ewc, **{method: ewc + of for method, of in d.items()}}
    records = [
        record(protocol, method, seed=seed, accuracy=[[0.9, 0.0], [value / 100, value / 100]])
        for method, values in scores.items()
        for seed, value in enumerate(values)
    ]
    folder = written(tmp_path, records, protocol=protocol)
    tables = markdown_tables(folder)
    found = {method: row(tables, PAIRS, f"{method} − ewc") for method in compared}
    assert [cells["finding"] for cells in found.values()] == [
        "ewc higher",
        "equivalent, within ±2",
        "replay-2 higher, within ±2",
    ]
    one_sided = {
        method: [
            stats.ttest_1samp(of, bound, alternative=side).pvalue for bound, side in ((-2, "greater"), (2, "less"))
        ]
        for method, of in d.items()
    }
    holm = {"replay-2": 3 * max(one_sided["replay-2"]), "online_ewc": 2 * max(one_sided["online_ewc"])}
    holm["naive"] = max(one_sided["naive"])
    assert {method: cells["p (equivalence)"] for method, cells in found.items()} == {
        method: p_text(p) for method, p in holm.items()
    }
    for method, of in d.items():
        smallest = abs(of.mean()) + stats.t.isf(0.05, 7) * stats.sem(of)
        assert found[method]["smallest margin"] == f"{smallest:.2f}"
    assert row(tables, FIRST_PAIRS, "online_ewc − ewc")["finding"] == "equivalent, within ±2"
    text = (folder / "README.md").read_text()
    assert "against ±2 points, which the protocol names" in text
    assert "as given" not in text


def test_equivalence_is_out_of_reach_where_equal_means_would_not_pass_either():
    """By a comparison of equal means with the same spread, in a family of as many."""
    rng = np.random.default_rng(0)
    spreads = (0.5, 2.0, 4.0)
    centred = [(d - d.mean()) / d.std(ddof=1) for d in rng.normal(size=(3, 10))]
    zero = np.zeros(10)
    pairs = [("a", "b", compare_paired(1 + spread * d, zero)) for spread, d in zip(spreads, centred, strict=True)]
    passes = [
        3 * compare_paired(spread * d, zero).p_equivalent(1) < 0.05 for spread, d in zip(spreads, centred, strict=True)
    ]
    assert passes == [True, False, False]
    (said,) = equivalence_notes(family(pairs, margin=1))
    assert said.startswith("For 2 of 3 pairs the spread over these seeds is too large to show equivalence within ±1 ")
    assert equivalence_notes([*family(pairs, margin=10), *family(pairs[:1])]) == []


def test_equivalence_is_within_reach_at_the_level_that_the_others_leave():
    """With the two others passing, Holm's correction tests the third at the whole level."""
    zero, alternating = np.zeros(10), np.array([1.0, -1.0] * 5)
    wide = compare_paired(0.6 + 1.5 * alternating, zero)
    alone = compare_paired(1.5 * alternating, zero).p_equivalent(1)
    assert 0.05 / 3 < alone < 0.05
    close = [("a", "b", compare_paired(0.1 * alternating, zero))] * 2
    found = family([*close, ("a", "c", wide)], margin=1)
    assert [each.equivalent for each in found] == [True, True, False]
    assert [each.equivalence_reachable for each in found] == [True, True, True]
    assert equivalence_notes(found) == []
    far = family([("a", "b", compare_paired(5 + alternating, zero))] * 2 + [("a", "c", wide)], margin=1)
    assert [each.equivalence_reachable for each in far] == [True, True, False]


def test_two_seeds_say_nothing_of_the_reach_of_equivalence():
    pair = ("a", "b", compare_paired([0.0, 0.1], [0.0, 0.0]))
    assert equivalence_notes(family([pair], margin=1)) == []


def test_several_families_are_named_and_each_is_corrected_by_itself(tmp_path, without_figures):
    named = (
        '[[comparisons]]\nbaselines = ["naive"]\nmethods = ["ewc"]\n\n'
        '[[comparisons]]\nbaselines = ["ewc"]\nmethods = ["online_ewc", "replay-2"]\nmargin = 2\n\n[model]'
    )
    protocol = toy(TEXT.partition("[[published]]")[0].replace("[model]", named))
    records = [
        record(protocol, method, seed=seed, accuracy=[[0.9, 0.0], [0.3 + index / 10, 0.3 + seed / 100]])
        for index, method in enumerate(("naive", "ewc", "online_ewc", "replay-2"))
        for seed in range(6)
    ]
    folder = written(tmp_path, records, search_records(protocol), protocol)
    tables = markdown_tables(folder)
    found = {cells["p (Holm)"] for cells in (row(tables, PAIRS, f"{m} − ewc") for m in ("online_ewc", "replay-2"))}
    assert found == {p_text(2 * 2 / 2**6)}
    assert row(tables, PAIRS, "ewc − naive")["p (Holm)"] == f"{p_text(2 / 2**6)}*"
    text = (folder / "README.md").read_text()
    assert "(`ewc` with `naive`; `online_ewc` and `replay-2` with `ewc`)" in text
    assert "Too few seeds (6): smallest reachable p = 0.031, after Holm's correction over 2 comparisons" in text
    assert "against ±2 points" in text
    assert "p (Holm): exact sign-flip permutation test; p (equivalence): paired equivalence test" in text
    assert "None of these includes the uncertainty of choosing λ." in text


def test_on_the_first_screen_families_take_turns_even_with_one_baseline():
    named = (
        '[[comparisons]]\nbaselines = ["ewc"]\nmethods = ["online_ewc", "replay-2"]\n\n'
        '[[comparisons]]\nbaselines = ["ewc"]\nmethods = ["naive"]\n\n[model]'
    )
    protocol = toy(TEXT.partition("[[published]]")[0].replace("[model]", named))
    better = {"ewc": 0.0, "online_ewc": 0.2, "replay-2": 0.3}
    records = [
        record(protocol, method, seed=seed, accuracy=[[0.9, 0.0], [0.3, better.get(method, (-1) ** seed / 9) + 0.4]])
        for method in ("naive", *better)
        for seed in range(6)
    ]
    table = leading_pairs(analyse(select("toy", protocol, records, [])), 2)
    assert {cells[0].text for cells in table.rows} == {"replay-2 − ewc", "naive − ewc"}


def test_methods_are_paired_by_the_seeds_that_both_finished(tmp_path, without_figures):
    protocol = toy()
    records = [r for r in all_records(protocol) if (r.run.label, r.run.seed) != ("ewc", 1)]
    folder = written(tmp_path, records)
    tables = markdown_tables(folder)
    with_ewc = row(tables, PAIRS, "ewc − naive")
    kept = np.array([0, 2, 3])
    assert with_ewc["seeds"] == "3 of 4"
    assert with_ewc["difference, 95% interval"] == "+" + mean_and_interval(
        (accuracies("ewc") - accuracies("naive"))[kept]
    )
    assert row(tables, PAIRS, "joint − naive")["seeds"] == "4"
    assert row(tables, RESULTS, "ewc")["average accuracy %"] == mean_and_interval(accuracies("ewc")[kept])
    assert row(tables, RESULTS, "ewc")["seeds"] == "3 of 4"


def test_the_first_screen_has_at_most_eight_verdicts_those_that_need_attention_first(complete, tmp_path):
    tables = markdown_tables(complete)
    verdicts = [cells[2] for cells in tables[VERDICTS][1:]]
    assert verdicts == sorted(verdicts, key=["below", "above", "inconclusive", "reproduced"].index)
    assert len(verdicts) == 5
    without = toy(TEXT.partition("[[published]]")[0])
    folder = written(tmp_path, all_records(without), protocol=without)
    found = markdown_tables(folder)[FIRST_PAIRS]
    assert len(found) == 1 + 8
    assert {cells[0].endswith(" − naive") for cells in found[1:]} == {True}, (
        "without variants of a method: against none"
    )
    scenarios, pairs = 2, 10
    assert f"{scenarios * pairs - 8} further pairs below." in (folder / "README.md").read_text()


def test_the_first_screen_shows_pairs_with_every_baseline_that_the_protocol_names(tmp_path, without_figures):
    baselines = '[comparisons]\nbaselines = ["naive", "ewc"]\n\n[model]'
    protocol = toy(TEXT.partition("[[published]]")[0].replace("[model]", baselines))
    records = [
        record(protocol, method, scenario, seed, accuracy=[[0.9, 0.0], [0.3 + index / 10, 0.3 + seed / 100]])
        for index, method in enumerate(("naive", "ewc", "online_ewc", "replay-2"))
        for scenario in protocol.scenarios
        for seed in range(9)
    ]
    folder = written(tmp_path, records, protocol=protocol)
    pairs = [cells[0] for cells in markdown_tables(folder)[FIRST_PAIRS][1:]]
    assert [sum(pair.endswith(f" − {baseline}") for pair in pairs) for baseline in ("naive", "ewc")] == [4, 4]


def test_everything_but_the_first_screen_is_folded(complete):
    text = (complete / "README.md").read_text()
    assert text.count("<details>") == text.count("</details>") >= 8
    assert text.count("**") == 2 * len(markdown_tables(complete))
    first_screen = text[: text.index("<details>")]
    assert first_screen.count("![") == 2, "one picture a scenario"
    assert first_screen.count("|---:|".replace("|", "| ")) <= 1


# ------------------------------------------------------------------------------- the search


def test_the_search_shows_the_choice_and_whether_it_is_at_the_edge(complete):
    tables = markdown_tables(complete)
    ewc = row(tables, SEARCH, "ewc")
    assert (ewc["chosen λ"], ewc["validation accuracy %"], ewc["at the grid's edge"]) == ("10", "75.00", "no")
    assert ewc["λ of the protocol"] == "100"
    online = row(tables, SEARCH, "online_ewc")
    assert online["chosen λ"] == "1, gamma = 0.5"
    assert (online["validation accuracy %"], online["at the grid's edge"]) == ("62.50", "yes")
    text = (complete / "README.md").read_text()
    assert "Source of λ: given by hand." in text
    assert (
        "2 seeds that no result here uses (1000 and 1001), and evaluates on 20% of each class's training data" in text
    )
    assert "Fewer than 5 seeds are too few to choose between neighbouring values." in text
    assert "Intervals and tests take this λ as given" in text


def test_a_search_over_five_seeds_is_not_called_too_few(tmp_path, without_figures):
    protocol = toy(TEXT.replace("seeds = [1000, 1001]", "seeds = [1000, 1001, 1002, 1003, 1004]"))
    text = (written(tmp_path, all_records(protocol), search_records(protocol), protocol) / "README.md").read_text()
    assert "5 seeds that no result here uses (1000, 1001, 1002, 1003 and 1004)" in text
    assert "too few to choose" not in text


def test_a_number_of_draws_that_the_search_chose_stands_with_its_strength(tmp_path, without_figures):
    sampled = TEXT.replace('fisher = "exact"', 'fisher = "sample"').replace(
        "online_ewc.gamma = [0.5, 1.0]", "online_ewc.gamma = [0.5, 1.0]\newc.draws = [1, 10]"
    )
    protocol = toy(sampled.replace("ewc = { task = 100, class = 100 }", 'ewc = { task = "tuned", class = "tuned" }'))
    searched = [
        each.model_copy(update={"accuracy": [[0.9, 0.9]] * 2}) if getattr(each.run.method, "draws", 1) == 10 else each
        for each in search_records(protocol)
    ]
    chosen = {"strength": 1.0, "method": protocol.methods["ewc"].model_copy(update={"draws": 10})}
    found = record(protocol, "ewc", run=chosen)
    tables = markdown_tables(written(tmp_path, [found, record(protocol, "naive")], searched, protocol))
    assert row(tables, RESULTS, "ewc")["λ"] == "1, draws = 10"
    assert row(tables, SEARCH, "ewc")["chosen λ"] == "1, draws = 10"


def test_without_records_of_the_search_there_is_no_section_and_no_archive_of_it(tmp_path, without_figures):
    folder = written(tmp_path, all_records(toy()), search_records(toy()))
    assert (folder / "tuning.jsonl.gz").exists()
    assert (folder / "figures" / "lambda-class.svg").exists()
    written(folder, all_records(toy()))
    assert "Sensitivity to λ" not in (folder / "README.md").read_text()
    assert not (folder / "tuning.jsonl.gz").exists()
    assert not (folder / "figures" / "lambda-class.svg").exists()


# ------------------------------------------------------------------------------- few records


def test_a_single_seed_has_no_intervals_and_no_tests(tmp_path, without_figures):
    folder = written(tmp_path, all_records(toy(), seeds=1))
    tables = markdown_tables(folder)
    assert row(tables, RESULTS, "ewc")["average accuracy %"] == "60.00"
    published = row(tables, PUBLISHED, "ewc")
    assert published["verdict"] == "inconclusive"
    assert "p (Welch)" not in published, "a column without a number is left out"
    assert "1 seed" in published["limited by"]
    pair = row(tables, PAIRS, "ewc − naive")
    assert pair["difference, 95% interval"] == "+10.00"
    assert pair["finding"] == "too few seeds (1)"
    assert "detectable difference" not in pair
    assert "nan" not in (folder / "README.md").read_text()
    assert html_tables(folder) == tables


def test_a_study_of_fewer_runs_than_its_protocol_says_so_wherever_its_numbers_stand(tmp_path, without_figures):
    records = [r for r in all_records(toy()) if (r.run.label, r.run.seed) != ("ewc", 1)]
    folder = written(tmp_path, [*records, failed(toy(), "ewc", 1)])
    assert "3 to 4 seeds; 38 of 40 runs finished, 1 failed; " in (folder / "README.md").read_text()
    for tables in (markdown_tables(folder), html_tables(folder)):
        assert row(tables, RESULTS, "ewc")["seeds"] == "3 of 4, 1 failed"
        assert row(tables, PUBLISHED, "ewc")["seeds"] == row(tables, PAIRS, "ewc − joint")["seeds"] == "3 of 4"
        assert row(tables, PUBLISHED, "joint")["seeds"] == "4"


def test_a_single_method_in_a_single_scenario_is_enough(tmp_path):
    folder = written(tmp_path, [record(toy(), "joint")])
    text = (folder / "README.md").read_text()
    assert "Method against method" not in text
    assert "Not run: `naive`, `ewc`, `online_ewc` and `replay-2`." in text


def test_a_study_in_which_nothing_finished_says_so(tmp_path):
    folder = written(tmp_path, [failed(toy(), "ewc", 0), failed(toy(), "naive", 0, "diverged")])
    assert "0 of 40 runs finished, 1 diverged, 1 failed; " in (folder / "README.md").read_text()
    assert len(markdown_tables(folder)[UNFINISHED]) == 3
    assert html_tables(folder) == markdown_tables(folder)


def test_no_records_are_an_error_and_nothing_is_written(tmp_path):
    with pytest.raises(ReportError, match="no records to report on"):
        written(tmp_path / "new", [])
    assert not (tmp_path / "new").exists()
