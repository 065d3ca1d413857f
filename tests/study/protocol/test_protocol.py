"""Errors of a protocol file name file, key, value and what is allowed."""

import re
from pathlib import Path

import pytest

from study.errors import ProtocolError
from study.protocol.load import load_protocol, parse_protocol, protocol_names
from study.protocol.schema import Protocol
from study.protocol.settings import EWC, OnlineEWC


@pytest.mark.parametrize("name", protocol_names())
def test_every_protocol_of_the_package_is_valid(name):
    protocol = load_protocol(name)
    assert isinstance(protocol, Protocol)
    for scenario in protocol.scenarios:
        for method in protocol.methods:
            assert protocol.strength_of(method, scenario) != -1
    assert protocol.title
    assert protocol.description.strip()
    assert "\n" not in protocol.strength_source


def test_lambda_is_that_of_the_scenario(protocol: Protocol):
    assert protocol.strength_of("ewc", "class") == protocol.strength["ewc"]["class"]
    assert protocol.strength_of("naive", "class") is None


# ------------------------------------------------------------------------------- errors

PUBLISHED = """
[[published]]
source = "somewhere"
spread = "sd"
n = 10
[published.results]
ewc.class = { mean = 50.0, spread = 1.0 }
"""


WRONG = r"""
epochs = 1 => epochs = 0 => training.epochs = 0: input should be greater than or equal to 1
epochs = 1 => epochs = "1" => training.epochs = '1': input should be a valid integer
epochs = 1 => epochs = 1.0 => training.epochs = 1.0: input should be a valid integer
epochs = 1 => epoch = 1 => [training]: unknown key 'epoch'; did you mean 'epochs'? allowed: epochs,
epochs = 1 =>  => [training]: exactly one of epochs and iterations says how long
epochs = 1 => +iterations = 5 => [training]: exactly one of epochs and iterations says how long
batch_size = 32 =>  => training.batch_size is missing
epochs = 1 => epochs = 9223372036854775807 => training.epochs = 9223372036854775807: input should be less than
epochs = 1 => iterations = 9223372036854775807 => training.iterations = 9223372036854775807: input should be less than
batch_size = 32 => batch_size = 2147483648 => training.batch_size = 2147483648: input should be less than or equal to
hidden = [100, 100] => hidden = [9223372036854775807] => model.hidden.0 = 9223372036854775807: input should be less than
learning_rate = 5e-3 => learning_rate = 5e-324 => training.learning_rate = 5e-324: allowed: from 1e-12 to 1000
test_fraction = 0.25 => +padding = 100000 => benchmark.padding = 100000: input should be less than or equal to 1000
test_fraction = 0.25 => +mean = 1e308 => benchmark.mean = 1e+308: allowed: from -1e+06 to 1e+06
test_fraction = 0.25 => +split_seed = 4294967296 => benchmark.split_seed = 4294967296: input should be less than
xi = 0.1 => xi = 1e-300 => methods.si.xi = 1e-300: allowed: from 1e-18 to 1e+18
ewc = { task = 100, => ewc = { task = 1e308, => strength.ewc.task = 1e+308: allowed: 0, or from 1e-18 to 1e+18
ewc = { task = 100, => ewc = { task = 5e-324, => strength.ewc.task = 5e-324: allowed: 0, or from 1e-18 to 1e+18
l2.strength = [ => l2.strength = [1e308,  => tuning.grid.l2.strength holds 1e+308; allowed: 0, or from 1e-18 to 1e+18
learning_rate = 5e-3 => learning_rate = inf => training.learning_rate = inf: input should be a finite
"adam" => "adamw" => training.optimizer = 'adamw': input should be 'adam', 'sgd' or 'adagrad'
"adam" => +momentum = 0.9 => [training]: momentum = 0.9: only the optimizer 'sgd' has one
"reset" => "forget" => training.optimizer_state = 'forget': input should be 'keep' or 'reset'
"mlp" => "resnet" => model.name = 'resnet': input should be 'mlp', 'cnn', 'resnet18_reduced' or 'wrn28_2'
hidden = [100, 100] =>  => [model]: hidden is for the models 'mlp' and 'cnn', which need it
hidden = [100, 100] => hidden = [100, 0] => model.hidden.1 = 0: input should be greater than or equal to 1
name = "mlp"\nhidden = [100, 100] => name = "wrn28_2" => model.name = 'wrn28_2' takes CIFAR's images of 3 x 32 x 32
test_fraction = 0.25 => test_fraction = 1.0 => benchmark.test_fraction = 1.0: allowed: from 0.001 to 0.999
test_fraction = 0.25 =>  => [benchmark]: test_fraction is for digits, which need it
"split_digits" => "split_mnist" => [benchmark]: test_fraction is for digits, which need it
experiences = 2 => experiences = 3 => [benchmark]: experiences = 3: split_digits has 10 classes; allowed: 2, 5, 10
name = "split_digits" => +class_order = "shuffled" => benchmark.class_order = 'shuffled': input should be 'labels' or
test_fraction = 0.25 => +mean = [0.1, 0.2, 0.3] => [benchmark]: mean = [0.1, 0.2, 0.3]: images of split_digits have 1
test_fraction = 0.25 => +std = 0 => benchmark.std = 0: allowed: from 1e-06 to 1e+06, or a valid list
"domain", "class"] => "domian"] => scenarios.1 = 'domian': input should be 'task', 'domain' or 'class'
fisher = "exact" } => fisher = "exakt" } => methods.ewc.fisher = 'exakt': input should be 'exact',
fisher = "exact" } => fishr = "exact" } => [methods.ewc]: unknown key 'fishr'; did you mean 'fisher'? allowed: kind,
kind = "si" => kind = "is" => methods.si.kind = 'is'; did you mean 'si'? allowed: naive, joint, cumulative, replay,
kind = "si",  =>  => methods.si.kind is missing
naive = { => "a/b" = { => methods.a/b = 'a/b': string should match pattern
gamma = 1.0 => gamma = 1.5 => methods.online_ewc.gamma = 1.5: input should be less than or equal to 1
copies = 2,  => copies = 2, examples = 5,  => [methods.replay-matched]: exactly one of examples, memory_bytes and
storage = "uint8" => storage = "int8" => methods.replay-matched-uint8.storage = 'int8': input should be 'float32' or
\nseeds = [1000, 1001, => \nseeds = [2, 0, => tuning.seeds: 2, 0 would be of the runs too, which use
\nseeds = [1000, => \nseeds = [-1, => tuning.seeds.0 = -1: input should be greater than or equal to 0
\nseeds =  => \nseeds = 1001 # => tuning.seeds: 1000 would be of the runs too, which use 0 to 1000;
[strength] => +naive = { task = 1 } => strength.naive: no such method with a λ; allowed: l2,
ewc = { task = 100, => ewc = { task = "tunned", => strength.ewc.task = 'tunned': input should be a valid number, or
ewc = { task = 100, => ewc = { task = -1, => strength.ewc.task = -1: allowed: 0, or from 1e-18 to 1e+18, or 'tuned'
[tuning.grid] => +si2.strength = [1] => tuning.grid.si2: no such method with a λ; did you mean 'si'?
[tuning.grid] => +naive.strength = [1] => tuning.grid.naive: no such method with a λ; allowed: l2,
l2.strength = [ => l2.strength = [-1,  => tuning.grid.l2.strength holds -1; allowed: 0, or from 1e-18 to 1e+18
l2.strength = [ => l2.strength = [inf,  => tuning.grid.l2.strength holds inf; allowed: a finite number
l2.strength = [ => l2.strength = [true,  => tuning.grid.l2.strength holds True; allowed: a valid number
[tuning.grid] => +ewc.fisher = ["exact", "exakt"] => tuning.grid.ewc.fisher = 'exakt': input should be 'exact',
[tuning.grid] => +ewc.fishr = [1] => tuning.grid.ewc.fishr: no such option; did you mean 'fisher'? allowed: strength,
[tuning.grid] => +ewc.kind = ["si"] => tuning.grid.ewc.kind: no such option; allowed: strength, fisher, n_samples,
"domain", "class"] => "domain", "task"] => scenarios holds 'task' twice; allowed: each value once
\nseeds = [1000, => \nseeds = [1001, => tuning.seeds holds 1001 twice; allowed: each value once
l2.strength = [ => l2.strength = [10, 10.0,  => tuning.grid.l2.strength holds 10.0 twice; allowed: each value once
[tuning.grid] => +ewc.fisher = ["exact", "exact"] => tuning.grid.ewc.fisher holds 'exact' twice; allowed: each value
title = "Split Digits" => title = "" => title = '': allowed: any text but an empty one
copies = 2,  => examples = 1,  => methods.replay-matched.examples = 1: allowed: at least 2, one of each experience
[tuning] => -[comparisons]\nbaselines = ["ewk"] => comparisons.baselines holds 'ewk': no such method to compare; did you
[tuning] => -[comparisons]\nbaselines = ["joint"] => comparisons.baselines holds 'joint': no such method to compare
[tuning] => -[comparisons]\nbaselines = [] => comparisons.baselines = []: list should have at least 1 item
[tuning] => -[comparisons]\nbaselines = ["ewc", "ewc"] => comparisons.baselines holds 'ewc' twice; allowed: each value
[tuning] => -[comparisons]\nbaselines = ["ewc"]\nmethods = ["joint"] => comparisons.methods holds 'joint': no such
[tuning] => -[comparisons]\nbaselines = ["ewc"]\nmethods = [] => comparisons.methods = []: list should have at least 1
[tuning] => -[comparisons]\nbaselines = ["ewc"]\nmethods = ["si", "si"] => comparisons.methods holds 'si' twice;
[tuning] => -[comparisons]\nbaselines = ["ewc"]\nmargin = 0 => comparisons.margin = 0: input should be greater than 0
title = "Split Digits" => +comparisons = [] => comparisons = []: list should have at least 1 item
[tuning] => -[[comparisons]]\nbaselines = ["ewc"]\nmargin = 0 => comparisons.0.margin = 0: input should be greater
[tuning] => -[[comparisons]]\nbaselines = ["ewc"]\n[[comparisons]]\nbaselines = ["ewk"] => comparisons.1.baselines holds
[tuning] => -[[comparisons]]\nbaselines = ["si", "si"] => comparisons.0.baselines holds 'si' twice; allowed: each value
fisher = "exact" } => fisher = "exact", draws = 2 } => [methods.ewc]: draws = 2: only the Fisher 'sample' draws labels
fisher = "exact" } => fisher = "sample", draws = 0 } => methods.ewc.draws = 0: input should be greater than or equal to
kind = "mas" => kind = "mas", draws = 2 => [methods.mas]: unknown key 'draws'; allowed: kind, output, accumulate,
"""
"""A line each: what is replaced, by what ("+": a line below it, "-": above it), and what the error says."""


def test_a_method_has_a_name_that_fits_into_those_of_files(text):
    named = text.replace("[methods]\n", f'[methods]\n{"m" * 51} = {{ kind = "naive" }}\n')
    with pytest.raises(ProtocolError, match="string should have at most 50 characters"):
        parse_protocol(named, "my.toml")


@pytest.mark.parametrize("line", WRONG.strip().splitlines())
def test_an_error_names_file_key_value_and_what_is_allowed(text, line):
    original, replacement, said = line.replace("\\n", "\n").split(" => ")
    changed = {"+": f"{original}\n{replacement[1:]}", "-": f"{replacement[1:]}\n{original}"}
    assert original in text
    with pytest.raises(ProtocolError, match=re.escape(f"my.toml: {said}")):
        parse_protocol(text.replace(original, changed.get(replacement[:1], replacement), 1), "my.toml")


@pytest.mark.parametrize(
    ("original", "replacement", "said"),
    [
        ("ewc.class", "ewk.class", "published.0.results.ewk: no such method; did you mean 'ewc'?"),
        (", spread = 1.0", "", "[published.0]: results.ewc.class: a spread is given where spread is not 'none', only"),
        ("n = 10\n", "", "[published.0]: n = None: spreads come from"),
        ("= 50.0", "= 101.0", "published.0.results.ewc.class.mean = 101.0: input should be less than or equal to 100"),
        ("= 50.0", "= 0.97", "published.0.results.ewc.class.mean = 0.97: allowed: percent, as in 97.5 for a share of"),
        ("n = 10", "margin = 1.5", "[published.0]: unknown key 'margin'; allowed: source, spread, n, context, results"),
        (
            "n = 10",
            'n = 10\ncontext = ["ewk"]',
            "[published.0]: context.ewk: no such method with a result in this table",
        ),
        (
            "n = 10",
            'n = 10\ncontext = ["si"]',
            "[published.0]: context.si: no such method with a result in this table;",
        ),
        ("somewhere", " ", "published.0.source = ' ': allowed: any text"),
    ],
)
def test_an_error_in_published_numbers_names_the_table(text, original, replacement, said):
    assert original in PUBLISHED
    table = PUBLISHED.replace(original, replacement)
    with pytest.raises(ProtocolError, match=re.escape(f"my.toml: {said}")):
        parse_protocol(text.replace("[tuning]\n", table + "[tuning]\n"), "my.toml")


def test_every_error_is_named_at_once(text: str):
    wrong = text.replace("epochs = 1", "epochs = 0").replace('"mlp"', '"rnn"')
    with pytest.raises(ProtocolError) as caught:
        parse_protocol(wrong, "my.toml")
    assert [line.split(" = ")[0] for line in str(caught.value).splitlines()] == [
        "my.toml: model.name",
        "my.toml: training.epochs",
    ]


def test_a_method_without_its_lambda_is_an_error(text: str):
    without = re.sub(r"(?m)^mas = \{ task.*\n", "", text, count=1)
    assert without != text
    with pytest.raises(ProtocolError, match=r"strength\.mas is missing: every method with a λ needs it"):
        parse_protocol(without, "my.toml")


def test_a_scenario_without_its_lambda_is_an_error(text: str):
    without = re.sub(r"(?m)^(si = \{.*), class = [^ ]+ \}", r"\1 }", text)
    assert without != text
    with pytest.raises(ProtocolError, match=r"strength\.si\.class is missing: the protocol runs 'class'"):
        parse_protocol(without, "my.toml")


def test_a_published_number_of_a_scenario_that_is_not_run_is_an_error(text: str):
    domain = text.replace('"task", "domain", "class"]', '"task", "domain"]')
    assert domain != text
    with pytest.raises(
        ProtocolError,
        match=r"my\.toml: published\.0\.results\.ewc\.class: no such scenario in this protocol; allowed: task, domain",
    ):
        parse_protocol(domain.replace("[tuning]\n", PUBLISHED + "[tuning]\n"), "my.toml")


def test_methods_may_have_equal_settings_and_a_published_mean_may_be_zero(text: str):
    twin = text.replace("[methods]\n", '[methods]\ntwin = { kind = "naive" }\n')
    table = PUBLISHED.replace("mean = 50.0", "mean = 0")
    protocol = parse_protocol(twin.replace("[tuning]\n", table + "[tuning]\n"), "my.toml")
    assert protocol.methods["twin"] == protocol.methods["naive"]
    assert protocol.published[0].results["ewc"]["class"].mean == 0


def test_a_search_may_use_any_seeds_that_the_runs_do_not(text: str):
    protocol = parse_protocol(text.replace("\nseeds = [1000,", "\nseeds = [3,"), "my.toml")
    assert (protocol.tuning.seeds[0], protocol.run_seeds()) == (3, range(3))
    with pytest.raises(ProtocolError, match=r"tuning\.seeds: 3 would be of the runs too, which use 0 to 4"):
        protocol.run_seeds(5)


def test_description_and_source_of_lambda_are_optional(text: str):
    without = re.sub(r"(?m)^(description|strength_source) = .*\n", "", text)
    assert "description" not in without
    assert "strength_source" not in without
    protocol = parse_protocol(without, "my.toml")
    assert (protocol.description, protocol.strength_source.split(";")[0]) == ("", "the protocol file")


def test_a_tuned_lambda_needs_a_grid(text: str):
    tuned = text.replace("mas = { task = 0.01,", 'mas = { task = "tuned",')
    assert parse_protocol(tuned, "my.toml").strength_of("mas", "task") == "tuned"
    without = re.sub(r"(?m)^mas\.strength.*\n", "", tuned)
    with pytest.raises(ProtocolError, match=r"strength\.mas = 'tuned' needs a grid .*tuning\.grid\.mas is missing"):
        parse_protocol(without, "my.toml")


def test_a_protocol_without_published_numbers_and_without_tuning_is_valid(text: str):
    plain = parse_protocol(text[: text.index("\n[tuning]")], "my.toml")
    assert plain.published == []
    assert plain.tuning is None


def test_published_numbers_are_read_with_what_is_context(text: str):
    table = PUBLISHED.replace("n = 10", 'n = 10\ncontext = ["si"]') + "si.class = { mean = 40.0, spread = 2.0 }\n"
    (published,) = parse_protocol(text.replace("[tuning]\n", table + "[tuning]\n"), "my.toml").published
    assert (published.source, published.spread, published.n, published.context) == ("somewhere", "sd", 10, ["si"])
    assert published.results["ewc"]["class"].mean == 50.0


@pytest.mark.parametrize("kind", [EWC, OnlineEWC])
def test_one_draw_is_left_out_so_that_earlier_records_keep_their_ids(kind: type):
    name = {EWC: "ewc", OnlineEWC: "online_ewc"}[kind]
    once, twice = (kind(kind=name, fisher="sample", draws=draws) for draws in (1, 2))
    assert once == kind(kind=name, fisher="sample")
    assert "draws" not in once.model_dump()
    assert kind.model_validate(once.model_dump()).draws == 1
    assert twice.model_dump() == once.model_dump() | {"draws": 2}


def test_a_search_may_try_numbers_of_draws(text: str):
    sampled = text.replace('fisher = "exact" }', 'fisher = "sample" }', 1)
    wide = sampled.replace("[tuning.grid]\n", "[tuning.grid]\newc.draws = [1, 10]\n")
    protocol = parse_protocol(wide, "my.toml")
    draws = {protocol.variant("ewc", values)[0].draws for values in protocol.tuning.combinations("ewc")}
    assert draws == {1, 10}


def test_a_grid_is_every_combination_of_its_options(text: str):
    wide = text.replace("[tuning.grid]\n", '[tuning.grid]\newc.fisher = ["exact", "empirical"]\n')
    wide = re.sub(r"(?m)^ewc\.strength.*$", "ewc.strength = [1, 10, 100]", wide)
    protocol = parse_protocol(wide, "my.toml")
    combinations = protocol.tuning.combinations("ewc")
    assert [(c["fisher"], c["strength"]) for c in combinations] == [
        (fisher, strength) for fisher in ("exact", "empirical") for strength in (1, 10, 100)
    ]
    method, strength = protocol.variant("ewc", combinations[-1])
    assert (method.fisher, strength) == ("empirical", 100.0)
    assert protocol.methods["ewc"].fisher == "exact"


# ------------------------------------------------------------------------------- files


def test_what_is_not_toml_is_an_error_that_names_the_line(text: str):
    with pytest.raises(ProtocolError, match=r"my\.toml is not TOML: .*line 1"):
        parse_protocol("title = \n" + text, "my.toml")


def test_what_is_not_text_is_an_error(tmp_path: Path):
    path = tmp_path / "my.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ProtocolError, match=r"my\.toml is not a text file in UTF-8"):
        load_protocol(str(path))


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ProtocolError, match=r"unknown protocol 'digit'; did you mean 'digits'\? allowed: "):
        load_protocol("digit")


def test_a_missing_file_is_named():
    with pytest.raises(ProtocolError, match=r"no protocol file nowhere/my\.toml"):
        load_protocol("nowhere/my.toml")


def test_a_file_is_read_by_its_path(protocol_file: Path, protocol: Protocol):
    assert load_protocol(str(protocol_file)) == protocol
