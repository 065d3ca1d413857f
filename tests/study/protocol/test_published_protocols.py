"""The protocols that come with the package say what their sources say, converted as DESIGN has it, and they run."""

import math
from collections import Counter
from pathlib import Path

import pytest

from study.protocol.load import load_protocol, protocol_names
from study.protocol.schema import Protocol
from study.protocol.settings import SCENARIOS, Scenario, takes_strength
from study.report.sections.lambda_section import FEWEST_SEEDS
from study.run.result import RunResult
from study.run.run_environment import RunEnvironment
from study.run.specification import Run
from study.run.trainer import perform
from study.statistics import family_pairs
from tests.study.images import write_cifar, write_mnist


def strengths(protocol: Protocol, scenario: Scenario) -> dict[str, float]:
    return {name: by_scenario[scenario] for name, by_scenario in protocol.strength.items()}


def published(protocol: Protocol, scenario: Scenario, table: int = 0) -> dict[str, tuple[float, float | None]]:
    results = protocol.published[table].results
    return {name: (number[scenario].mean, number[scenario].spread) for name, number in results.items()}


# ------------------------------------------------------------------------------- Hsu et al. 2018

HSU_REG_COEF = {
    "task": {"ewc": 100, "online_ewc": 400, "si": 300, "mas": 1, "l2": 0.01},
    "domain": {"ewc": 100, "online_ewc": 700, "si": 3000, "mas": 10000, "l2": 0.5},
    "class": {"ewc": 600, "online_ewc": 100, "si": 600, "mas": 1, "l2": 100},
}
HSU_PUBLISHED = {  # Adam, L2, EWC, Online EWC, SI, MAS, naive rehearsal, naive rehearsal-C, offline
    "task": "93.46 2.01 98.18 0.96 97.70 0.81 98.04 1.10 98.56 0.49 99.22 0.21 99.40 0.08 99.57 0.07 99.52 0.16",
    "domain": "55.16 1.38 66.00 3.73 58.85 2.59 57.33 1.44 64.76 3.09 68.57 6.85 95.16 0.49 97.11 0.34 98.59 0.15",
    "class": "19.71 0.08 22.52 1.08 19.80 0.05 19.77 0.04 19.67 0.09 19.52 0.29 90.78 0.85 95.59 0.49 97.53 0.30",
}
HSU_METHODS = ["naive", "l2", "ewc", "online_ewc", "si", "mas", "naive-rehearsal", "naive-rehearsal-c", "joint"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_hsus_numbers(scenario):
    protocol = load_protocol(f"hsu2018-split-mnist-{scenario}")
    assert protocol.scenarios == [scenario]
    assert protocol.seeds == 12
    assert strengths(protocol, scenario) == {name: 2 * c for name, c in HSU_REG_COEF[scenario].items()}
    numbers = list(map(float, HSU_PUBLISHED[scenario].split()))
    expected = dict(zip(HSU_METHODS, zip(numbers[::2], numbers[1::2], strict=True), strict=True))
    assert published(protocol, scenario) == expected
    (table,) = protocol.published
    assert (table.spread, table.n, table.context) == ("sd", 10, [])


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_hsus_conditions(scenario):
    protocol = load_protocol(f"hsu2018-split-mnist-{scenario}")
    data, training, methods = protocol.benchmark, protocol.training, protocol.methods
    assert (data.name, data.experiences, data.class_order, data.padding) == ("split_mnist", 5, "labels", 2)
    assert (data.mean, data.std) == (0.1, 0.2752)
    assert (training.epochs, training.batch_size, training.learning_rate) == (4, 128, 1e-3)
    assert (training.optimizer, training.optimizer_state) == ("adam", "keep")
    assert (protocol.model.hidden, protocol.model.unseen_classes) == ([400, 400], "masked")
    assert (methods["ewc"].kind, methods["ewc"].fisher) == ("ewc", "predicted")
    assert (methods["online_ewc"].fisher, methods["online_ewc"].gamma) == ("predicted", 1.0)
    assert (methods["si"].xi, methods["si"].gradient, methods["si"].clip) == (0.1, "task", False)
    assert (methods["mas"].output, methods["mas"].per_sample, methods["mas"].accumulate) == (
        "mean_square",
        False,
        "sum",
    )
    memories = [(methods[name].storage, methods[name].examples) for name in ("naive-rehearsal", "naive-rehearsal-c")]
    assert memories == [("float32", 1100), ("uint8", 4400)]
    assert methods["joint"].kind == "joint"
    assert protocol.tuning.validation_fraction == 0.1
    for name, grid in protocol.tuning.grid.items():
        powers = [math.log10(strength / protocol.strength[name][scenario]) for strength in grid["strength"]]
        assert powers == pytest.approx([-2, -1, 0, 1, 2]), name


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [
        ("sgd", [(97.98, 0.09), (63.20, 0.35), (19.46, 0.04)]),
        ("adagrad", [(98.06, 0.53), (58.08, 1.06), (19.82, 0.09)]),
    ],
)
def test_hsus_other_optimizers_differ_in_nothing_else(optimizer, numbers):
    protocol = load_protocol(f"hsu2018-split-mnist-{optimizer}")
    for scenario, number in zip(SCENARIOS, numbers, strict=True):
        theirs = load_protocol(f"hsu2018-split-mnist-{scenario}")
        assert (protocol.benchmark, protocol.model, protocol.seeds) == (theirs.benchmark, theirs.model, theirs.seeds)
        changed = {"optimizer": optimizer, "learning_rate": 0.01}
        assert protocol.training == theirs.training.model_copy(update=changed)
        assert published(protocol, scenario) == {"naive": number}
    (table,) = protocol.published
    assert (table.spread, table.n, list(protocol.methods)) == ("sd", 10, ["naive"])


# ------------------------------------------------------------------------------- van de Ven and Tolias 2018, 2019

SPLIT = {  # λ of EWC, λ and γ of Online EWC, c of SI
    "task": (1e7, 1e8, 0.8, 50),
    "domain": (1e6, 1e8, 0.7, 500),
    "class": (1e8, 1e9, 0.8, 0.5),
}
SPLIT_2018 = {  # none, EWC, Online EWC, SI, offline
    "task": [(85.15, 1.00), (85.48, 1.20), (85.22, 1.06), (99.14, 0.11), (99.64, 0.03)],
    "domain": [(57.33, 1.66), (57.80, 1.61), (57.60, 1.66), (63.77, 1.18), (98.41, 0.06)],
    "class": [(19.90, 0.02), (19.90, 0.02), (19.90, 0.02), (20.04, 0.08), (97.93, 0.04)],
}
SPLIT_2019 = {"task": (98.64, 0.22), "domain": (63.95, 1.90), "class": (20.01, 0.06)}
PERMUTED = {
    "task": (500, 500, 0.8, 5),
    "domain": (500, 1000, 0.9, 5),
    "class": (1, 5, 1.0, 0.1),
}
PERMUTED_2018 = {
    "task": [(81.79, 0.48), (94.74, 0.05), (95.96, 0.06), (94.75, 0.14), (97.68, 0.01)],
    "domain": [(78.51, 0.24), (94.31, 0.11), (94.42, 0.13), (95.33, 0.11), (97.59, 0.01)],
    "class": [(17.26, 0.19), (25.04, 0.50), (33.88, 0.49), (29.31, 0.62), (97.59, 0.02)],
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_van_de_vens_numbers_for_split_mnist(scenario):
    protocol = load_protocol(f"vandeven2018-split-mnist-{scenario}")
    ewc, online, gamma, c = SPLIT[scenario]
    expected = {
        "ewc-2018": 5000,
        "ewc-2019": ewc,
        "online_ewc-2018": 5000,
        "online_ewc-2019": gamma * online,
        "si": 2 * c,
    }
    if scenario == "task":  # where EWC's number changed so much within a year: each Fisher with each λ
        expected |= {"ewc-empirical-1e7": ewc, "ewc-predicted-5000": 5000}
        for corner, year in (("ewc-empirical-1e7", 2018), ("ewc-predicted-5000", 2019)):
            assert protocol.methods[corner] == protocol.methods[f"ewc-{year}"]
        (family,) = protocol.families
        assert family_pairs(protocol.methods, family.baselines, family.methods) == [
            ("ewc-2019", "ewc-2018"),
            ("ewc-empirical-1e7", "ewc-2018"),
            ("ewc-predicted-5000", "ewc-2018"),
            ("ewc-empirical-1e7", "ewc-2019"),
            ("ewc-predicted-5000", "ewc-2019"),
        ]
    assert strengths(protocol, scenario) == pytest.approx(expected)
    assert protocol.seeds == (10 if scenario == "task" else 5)
    gammas = [protocol.methods[f"online_ewc-{year}"].gamma for year in (2018, 2019)]
    assert gammas == [1.0, gamma]
    names = ["none", "ewc-2018", "online_ewc-2018", "si", "offline"]
    assert published(protocol, scenario) == dict(zip(names, SPLIT_2018[scenario], strict=True))
    assert published(protocol, scenario, table=1) == {"ewc-2019": SPLIT_2019[scenario]}
    assert {(table.spread, table.n, *table.context) for table in protocol.published} == {("sem", 20)}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_van_de_vens_numbers_for_permuted_mnist(scenario):
    protocol = load_protocol(f"vandeven2018-permuted-mnist-{scenario}")
    ewc, online, gamma, c = PERMUTED[scenario]
    expected = {"ewc": ewc, "online_ewc": gamma * online, "si": 2 * c}
    expected |= {f"{name}-empirical": expected[name] for name in ("ewc", "online_ewc")}
    assert strengths(protocol, scenario) == pytest.approx(expected)
    assert {protocol.methods[name].gamma for name in ("online_ewc", "online_ewc-empirical")} == {gamma}
    numbers = dict(zip(["none", "ewc", "online_ewc", "si", "offline"], PERMUTED_2018[scenario], strict=True))
    numbers |= {f"{name}-empirical": numbers[name] for name in ("ewc", "online_ewc")}
    assert published(protocol, scenario) == numbers
    (table,) = protocol.published
    assert (table.spread, table.n, table.context) == ("sem", 20, ["ewc", "online_ewc"])
    assert [protocol.methods[name].fisher for name in ("ewc", "ewc-empirical")] == ["predicted", "empirical"]


@pytest.mark.parametrize(
    ("data", "experiences", "order", "padding", "hidden", "iterations", "rate"),
    [("split", 5, "random", 0, 400, 2000, 1e-3), ("permuted", 10, "labels", 2, 1000, 5000, 1e-4)],
)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_van_de_vens_conditions(scenario, data, experiences, order, padding, hidden, iterations, rate):
    protocol = load_protocol(f"vandeven2018-{data}-mnist-{scenario}")
    benchmark, training = protocol.benchmark, protocol.training
    assert (benchmark.name, benchmark.experiences) == (f"{data}_mnist", experiences)
    assert (benchmark.class_order, benchmark.padding, benchmark.mean, benchmark.std) == (order, padding, 0, 1)
    assert (training.iterations, training.batch_size, training.learning_rate) == (iterations, 128, rate)
    assert (training.optimizer, training.optimizer_state) == ("adam", "keep")
    assert (protocol.model.hidden, protocol.model.unseen_classes) == ([hidden, hidden], "masked")
    assert protocol.scenarios == [scenario]
    si = protocol.methods["si"]
    assert (si.xi, si.gradient, si.clip) == (0.1, "total", False)
    assert protocol.methods["offline"].kind == "cumulative"


def test_avalanches_plugins_run_on_the_same_protocol_as_ours():
    protocol, ours = (load_protocol(f"{of}-permuted-mnist-domain") for of in ("avalanche", "vandeven2018"))
    assert (protocol.benchmark, protocol.model, protocol.training) == (ours.benchmark, ours.model, ours.training)
    for name in ("none", "ewc", "si"):
        assert protocol.methods[name] == ours.methods[name]
        assert protocol.strength_of(name, "domain") == ours.strength_of(name, "domain")
    assert protocol.published[0].results.keys() == set(protocol.published[0].context)
    numbers, expected = published(protocol, "domain"), published(ours, "domain")
    assert numbers == {name: expected[name.removeprefix("avalanche-").removesuffix("-mended")] for name in numbers}
    ewc_lambda, strength = (protocol.strength_of(name, "domain") for name in ("avalanche-ewc", "ewc-batched"))
    assert strength == 2 * ewc_lambda  # the same penalty: Avalanche's lacks the half


RATES = {"ewc": 1e-3, "ewc-lr1e-1": 1e-1, "si": 1e-3}


@pytest.mark.parametrize("of", RATES)
def test_conditions_of_avalanches_baselines(of):
    protocol = load_protocol(f"avalanche-baselines-permuted-mnist-{of}")
    data, training, si = protocol.benchmark, protocol.training, of == "si"
    assert (data.name, data.experiences, data.padding, data.mean, data.std) == ("permuted_mnist", 10, 0, 0.1307, 0.3081)
    assert protocol.model.hidden == ([1000] if si else [512])
    assert (training.epochs, training.batch_size, training.momentum) == (10, 256, 0)
    assert (training.optimizer, training.learning_rate) == ("adam" if si else "sgd", RATES[of])
    theirs = {"ewc": "avalanche-ewc", "si": "avalanche-si-mended"}.get(of)
    if theirs is None:
        assert protocol.published == []
    else:
        assert protocol.strength_of(theirs, "domain") == (10 if si else 1)
        assert published(protocol, "domain") == {theirs: (83, None)}
    if not si:
        assert protocol.methods["ewc-tuned"].batch_size == training.batch_size
    if theirs is None:
        assert protocol.strength_of("ewc", "domain") == 2, "twice ewc_lambda: Avalanche's penalty lacks the half"
        assert protocol.methods["ewc"] == protocol.methods["ewc-tuned"]


def test_agems_numbers_and_conditions():
    protocol = load_protocol("agem2019-permuted-mnist")
    training = protocol.training
    assert (protocol.benchmark.experiences, protocol.model.hidden, protocol.seeds) == (17, [256, 256], 5)
    assert (training.optimizer, training.learning_rate, training.momentum) == ("sgd", 0.03, 0)
    assert training.iterations * training.batch_size == 55_000
    assert training.batch_size == 10
    (table,) = protocol.published
    assert (table.spread, table.n, published(protocol, "domain")) == ("sd", 5, {"none": (47.95, 1.32)})


# ------------------------------------------------------------------------------- all of them


def test_every_search_is_over_at_least_five_seeds():
    searched = {name: tuning.seeds for name in protocol_names() if (tuning := load_protocol(name).tuning)}
    assert len(searched) > 10
    assert {name: seeds for name, seeds in searched.items() if len(seeds) < FEWEST_SEEDS} == {}


def test_a_published_number_counts_once_for_a_kind_of_method():
    """Of two methods that are compared with it, in one protocol or two, one is context."""
    counted = [
        (table.source, scenario, protocol.methods[method].kind, number.mean)
        for protocol in map(load_protocol, protocol_names())
        for table in protocol.published
        if "2502.11756" not in table.source  # whose rows are Fishers of one kind of method
        for method in table.results.keys() - table.context
        for scenario, number in table.results[method].items()
    ]
    assert len(counted) > 50
    assert [number for number, times in Counter(counted).items() if times > 1] == []


# ------------------------------------------------------------------------------- the others


def test_zenkes_numbers_and_conditions():
    protocol = load_protocol("zenke2017-permuted-mnist")
    expected = {0: 57.41, 0.01: 92.00, 0.02: 93.91, 0.1: 96.94}
    assert strengths(protocol, "domain") == {f"si-c{c:g}": 2 * c for c in expected}
    assert published(protocol, "domain") == {f"si-c{c:g}": (mean, None) for c, mean in expected.items()}
    benchmark, training = protocol.benchmark, protocol.training
    assert (benchmark.name, benchmark.experiences, benchmark.padding) == ("permuted_mnist", 10, 0)
    assert (training.epochs, training.batch_size, training.learning_rate) == (20, 256, 1e-3)
    assert (training.optimizer_state, protocol.model.hidden) == ("keep", [2000, 2000])
    assert {(m.xi, m.gradient, m.clip) for m in protocol.methods.values()} == {(0.1, "task", True)}


FISHERS = {
    "exact": ("exact", None, 1, None),
    "exact-n500": ("exact", 500, 1, None),
    "sample": ("sample", None, 1, None),
    "sample-10": ("sample", None, 10, None),
    "predicted": ("predicted", None, 1, None),
    "empirical": ("empirical", None, 1, None),
    "batched": ("batched", None, 1, 128),
}


@pytest.mark.parametrize(
    ("name", "seeds"),
    [("split-mnist", 30), ("permuted-mnist", 20), ("split-fmnist", 20), ("split-cifar10-cnn", 10)],
)
def test_where_fishers_are_compared_nothing_but_the_fisher_differs(name, seeds):
    protocol = load_protocol(f"fisher-{name}")
    assert protocol.seeds == seeds
    compared = {n: m for n, m in protocol.methods.items() if n not in ("none", "kfac")}
    batch = {n: m.batch_size if m.fisher == "batched" else None for n, m in compared.items()}  # else it only reads
    assert {n: (m.fisher, m.n_samples, m.draws, batch[n]) for n, m in compared.items()} == FISHERS
    assert {(m.kind, m.gamma) for m in compared.values()} == {("online_ewc", 1.0)}
    family = protocol.comparisons
    assert (family.baselines, ["exact", *family.methods], family.margin) == (["exact"], [*FISHERS], 0.5)
    for method in (*FISHERS, "kfac"):
        assert {protocol.strength_of(method, scenario) for scenario in protocol.scenarios} == {"tuned"}


DEFINITIONS = {  # of each family the baseline, and in what each other method differs from it
    "mas": {"mas-batched": {"per_sample": False}, "mas-vector": {"output": "vector"}, "mas-sum": {"accumulate": "sum"}},
    "si": {"si-total": {"gradient": "total"}, "si-xi0.001": {"xi": 0.001}},
    "online_ewc": {"online_ewc-0.9": {"gamma": 0.9}, "online_ewc-0.5": {"gamma": 0.5}},
}


@pytest.mark.parametrize(("place", "seeds"), [("split-fmnist", 20), ("permuted-mnist", 10), ("permuted-mnist-20", 10)])
def test_in_a_family_of_definitions_nothing_but_the_definition_differs(place, seeds):
    protocol, fisher = load_protocol(f"definitions-{place}"), load_protocol(f"fisher-{place.removesuffix('-20')}")
    experiences = 20 if place.endswith("-20") else fisher.benchmark.experiences
    assert protocol.benchmark == fisher.benchmark.model_copy(update={"experiences": experiences})
    same = ("model", "training", "scenarios")
    assert [getattr(protocol, key) for key in same] == [getattr(fisher, key) for key in same]
    assert protocol.seeds == seeds
    families = [(family.baselines, family.methods) for family in protocol.families]
    if place.endswith("-20"):
        assert families == [(["mas"], ["mas-sum"])]
    else:
        assert families == [*(([b], [*others]) for b, others in DEFINITIONS.items()), (["online_ewc"], ["ewc"])]
        assert protocol.methods["online_ewc"] == fisher.methods["exact"]
        searched_there = fisher.tuning.grid["exact"]["strength"]
        assert protocol.tuning.grid["online_ewc"]["strength"][: len(searched_there)] == searched_there
        assert protocol.methods["ewc"].fisher == "exact"
    assert {family.margin for family in protocol.families} == {0.5}
    for baseline, others in DEFINITIONS.items():
        for name, change in others.items():
            if name in protocol.methods:
                assert protocol.methods[name] == protocol.methods[baseline].model_copy(update=change)
    for name in protocol.methods.keys() - {"none"}:
        assert {protocol.strength_of(name, scenario) for scenario in protocol.scenarios} == {"tuned"}


@pytest.mark.parametrize(
    ("name", "batch_size", "model", "numbers"),
    [
        (
            *("split-mnist", 128, "mlp"),
            [(99.12, 0.16), (98.93, 0.15), (99.12, 0.12), (99.12, 0.12), (99.11, 0.16), (85.41, 0.88)],
        ),
        (
            *("split-cifar10-task", 256, "resnet18_reduced"),
            [(84.91, 0.65), (84.57, 0.72), (83.77, 0.72), (83.28, 0.77), (83.38, 0.66), (69.53, 1.34)],
        ),
    ],
)
def test_van_de_vens_numbers_of_fishers_and_conditions(name, batch_size, model, numbers):
    protocol = load_protocol(f"fisher-{name}")
    assert (protocol.training.iterations, protocol.training.batch_size) == (2000, batch_size)
    assert (protocol.model.name, protocol.benchmark.class_order) == (model, "random")
    (table,) = protocol.published
    assert (table.spread, table.n) == ("sem", 30)
    methods = ["exact", "exact-n500", "sample", "empirical", "batched", "none"]
    assert published(protocol, "task") == dict(zip(methods, numbers, strict=True))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_on_fashion_mnist_every_method_is_tuned(scenario):
    protocol = load_protocol(f"split-fmnist-{scenario}")
    assert {method.kind for method in protocol.methods.values()} == {
        *("naive", "l2", "ewc", "online_ewc", "mas", "si", "lwf", "replay", "cumulative", "joint")
    }
    for name, method in protocol.methods.items():
        assert protocol.strength_of(name, scenario) == ("tuned" if takes_strength(method) else None)
    assert protocol.published == []


# ------------------------------------------------------------------------------- and they run


def run(name: str, method: str, root: Path, overrides: list[str]) -> RunResult:
    """A run of a protocol that is cut short, with λ = 1 where it is to be tuned."""
    scenario = load_protocol(name).scenarios[0]
    settings = load_protocol(name).methods[method]
    if settings.kind == "replay":  # of fewer images than there are
        size = next(key for key in ("examples", "copies", "memory_bytes") if getattr(settings, key) is not None)
        overrides = [*overrides, f"methods.{method}.{size}=", f"methods.{method}.examples=20"]
    if load_protocol(name).strength_of(method, scenario) == "tuned":
        overrides = [*overrides, f'strength."{method}".{scenario}=1']
    protocol = load_protocol(name, overrides)
    record = perform(Run.of(name, protocol, scenario, method, 0), RunEnvironment(root))
    assert record.finished, record.error
    experiences = protocol.benchmark.experiences
    assert len(record.accuracy) == (1 if protocol.methods[method].kind == "joint" else experiences)
    assert {len(row) for row in record.accuracy} == {experiences}
    return record


FAMILIES = [
    ("hsu2018-split-mnist-class", "training.epochs=1"),
    ("vandeven2018-split-mnist-task", "training.iterations=3"),
    ("vandeven2018-permuted-mnist-domain", "training.iterations=2"),
    ("avalanche-permuted-mnist-domain", "training.iterations=2"),
    ("zenke2017-permuted-mnist", "training.epochs=1"),
    ("ritter2018-permuted-mnist", "training.epochs=1"),
    ("split-fmnist-task", "training.iterations=3"),
    ("kronecker-split-fmnist", "training.iterations=3"),
    ("kronecker-split-fmnist-cnn", "training.iterations=3"),
    ("fisher-split-mnist", "training.iterations=3"),
    ("definitions-split-fmnist", "training.iterations=3"),
    ("hsu2018-split-mnist-adagrad", "training.epochs=1"),
    ("agem2019-permuted-mnist", "training.iterations=2"),
    ("avalanche-baselines-permuted-mnist-ewc", "training.epochs=1"),
    ("avalanche-baselines-permuted-mnist-si", "training.epochs=1"),
    ("digits", "training.epochs=1"),
    ("permuted-digits", "training.epochs=1"),
]


@pytest.mark.parametrize(
    ("name", "method", "length"),
    [(name, method, length) for name, length in FAMILIES for method in load_protocol(name).methods],
)
def test_every_method_of_each_family_runs(name, method, length, tmp_path, monkeypatch):
    for data in ("MNIST", "FashionMNIST"):
        write_mnist(tmp_path, monkeypatch, data, per_class=6)
    hidden = "[4, 4, 4, 4]" if "cnn" in name else "[8]"  # convolutions pool every second time: heads stay small
    overrides = [length, "training.batch_size=8", f"model.hidden={hidden}"]
    if "permuted" in name:
        overrides.append("benchmark.experiences=3")
    run(name, method, tmp_path, overrides)


CIFAR_RUNS = [("fisher-split-cifar10-task", method) for method in ("none", "exact-n500", "batched")]
CIFAR_RUNS += [("split-cifar100-task", method) for method in ("naive", "ewc", "naive-rehearsal-c")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), CIFAR_RUNS)
def test_the_protocols_of_cifar_run(name, method, tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch, 100 if "100" in name else 10, per_class=1 if "100" in name else 5)
    length = "training.epochs=1" if "100" in name else "training.iterations=2"
    run(name, method, tmp_path, [length, "training.batch_size=10"])


def test_on_the_published_mnist_three_batches_are_enough_to_be_better_than_chance(mnist):
    record = run("vandeven2018-split-mnist-task", "none", mnist, ["training.iterations=3"])
    assert record.accuracy[0][0] > 0.8, record.accuracy


def test_every_protocol_belongs_to_a_test_here():
    tested = {name.rsplit("-", 1)[0] for name, _ in FAMILIES} | {"fisher-split-cifar10", "split-cifar100"}
    tested |= {
        "zenke2017-permuted-mnist",
        "ritter2018-permuted-mnist",
        "kronecker-split-fmnist",
        *("fisher-permuted-mnist", "fisher-split-fmnist", "fisher-split-mnist"),  # methods and benchmarks of others
        *("definitions-split-fmnist", "definitions-permuted-mnist", "definitions-permuted-mnist-20"),
        "agem2019-permuted-mnist",
        *(f"avalanche-baselines-permuted-mnist-{of}" for of in RATES),
        "digits",
        "permuted-digits",
    }
    untested = [n for n in protocol_names() if n not in tested and n.rsplit("-", 1)[0] not in tested]
    assert untested == []
