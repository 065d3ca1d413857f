"""The sentences that a page of measurements begins with."""

from study.bench.in_words import costs
from study.bench.operations import AND_PATH_INTEGRAL, BARE
from study.bench.profiling import BEYOND_NAIVE, OF_A_PASS
from tests.study.bench.synthetic import a_pass, measurement, performance


def said(*found):
    return {statement.lead: statement.text for statement in costs(performance(*found))}


def test_a_step_costs_from_the_least_to_the_most_of_its_medians():
    text = said(
        measurement("EWC, ours", 1.2),
        measurement("MAS, ours", 1.3, setting="experience 50"),
        measurement("L2, ours, direct", 1.9),
        measurement("SI, ours", 1.5),
        measurement("EWC, ours", 1.0, model="small ViT"),
    )["What a step costs"]
    assert "with L2, EWC, Online EWC or MAS 1.20 to 1.30 (MLP 400-400), 1.00 (small ViT)" in text
    assert "with SI 1.50 (MLP 400-400)." in text


def test_an_importance_costs_what_its_pass_with_ten_classes_does():
    text = said(a_pass("exact Fisher, ours", 1.6), a_pass("exact Fisher, ours", 17.0, setting="100 classes"))
    assert text["What an importance costs"].endswith("with 10 classes: exact Fisher 1.60 (MLP 400-400).")
    assert "What a step costs" not in text


def test_where_others_are_faster_they_are_named():
    steps = [
        measurement("SI, ours", 1.6),
        measurement("SI, Avalanche", 1.1),  # penalises nothing on a CPU
        measurement("SI, Avalanche, mended", 1.5),
        measurement("SI, plain autograd", 1.55),
        measurement("EWC, ours", 1.2),
        measurement("EWC, plain autograd", 1.19),  # no more than noise
        measurement("EWC, Avalanche", 1.4),
    ]
    faster = "times as fast as"
    passes = [
        a_pass("empirical Fisher, ours", 2.0),
        a_pass("empirical Fisher, ours", 0.8, quantity=f"{faster} the fastest peer"),
        a_pass("empirical Fisher, ours", 0.8, quantity=f"{faster} torch.func"),
        a_pass("empirical Fisher, ours", 3.0, quantity=f"{faster} BackPACK"),
        a_pass("empirical Fisher, ours", 0.5, quantity=f"{faster} one at a time"),
        a_pass("exact Fisher, ours", 1.1, quantity=f"{faster} the fastest peer"),
    ]
    assert said(*steps, *passes)["Where others are faster"] == (
        "a step with SI at experience 2, MLP 400-400 (Avalanche, mended, 1.07 times); "
        "empirical Fisher, MLP 400-400, 10 classes (torch.func, 1.25 times)."
    )
    assert said(*steps[4:])["Where others are faster"] == "nowhere, of what was measured."


def test_what_was_not_measured_is_not_spoken_of():
    assert said(measurement("EWC, ours", 1.0, part="memory")) == {}


def test_a_target_that_bare_operations_miss_is_said_to_be():
    bare = {"part": "limit", "setting": "", "quantity": BARE, "ours": False}
    lead = "Targets that bare PyTorch operations miss, too"
    of_si = "a step with SI, times Naive's"
    missed, possible = (measurement(AND_PATH_INTEGRAL, value, **bare) for value in (1.4, 1.2))
    assert said(measurement("SI, ours", 1.6), missed)[lead] == f"{of_si} (≤ 1.25; bare 1.40)."
    assert lead not in said(measurement("SI, ours", 1.6), possible)
    assert lead not in said(measurement("SI, ours", 1.6))


def test_what_misses_its_target_is_taken_apart_where_there_is_a_profile_of_it():
    lead = "Where the time of what misses its target goes"

    def share(mode, value, quantity, setting, **changes):
        of = {"part": "limit", "quantity": quantity, "setting": setting, "ours": False, **changes}
        return measurement(mode, value, **of)

    of_pass = [
        share("other arithmetic", 0.2, OF_A_PASS, "exact Fisher, 10 classes"),
        share("products, convolutions", 0.7, OF_A_PASS, "exact Fisher, 10 classes"),
        share("copies and patches", 0.02, OF_A_PASS, "exact Fisher, 10 classes"),
        share("products, convolutions", 0.9, OF_A_PASS, "exact Fisher, 10 classes", model="4-layer CNN"),
    ]
    of_step = [share("other arithmetic", 0.3, BEYOND_NAIVE, "SI, experience 2")]
    text = said(
        a_pass("exact Fisher, ours", 1.6), measurement("SI, ours", 1.6, setting="experience 50"), *of_pass, *of_step
    )
    assert text[lead].endswith(
        ": SI, MLP 400-400: other arithmetic 0.30; "
        "exact Fisher, MLP 400-400: products, convolutions 0.70, other arithmetic 0.20."
    )
    one_label = share("copies and patches", 0.4, OF_A_PASS, "empirical Fisher, 10 classes")
    assert said(a_pass("sample Fisher, ours", 0.9), one_label)[lead].endswith(
        ": empirical Fisher, MLP 400-400: copies and patches 0.40."
    )
    assert lead not in said(a_pass("exact Fisher, ours", 0.9), *of_pass), "nothing is missed"
    assert lead not in said(a_pass("exact Fisher, ours", 1.6), *of_step), "there is no profile of it"
