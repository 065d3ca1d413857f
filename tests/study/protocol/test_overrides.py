"""``--set key=value`` replaces what a protocol file says, and is validated like it."""

import re
import tomllib
from pathlib import Path

import pytest

from study.errors import ProtocolError
from study.protocol.load import load_protocol
from study.protocol.schema import Protocol


def test_an_override_has_the_type_of_its_toml_value_and_a_bare_word_is_a_string(protocol_file):
    overrides = [
        "training.epochs=3",
        "training.learning_rate = 0.5",
        "training.optimizer = sgd",
        'model.unseen_classes="masked"',
        "scenarios=['class']",
        "methods.si.clip=false",
        "model.hidden=[7, 8]",
        "strength.ewc.class=1e3",
        "strength.si.class=tuned",
        "methods.ewc={ kind = 'ewc', fisher = 'sample' }",
    ]
    protocol = load_protocol(str(protocol_file), overrides)
    assert (protocol.training.epochs, protocol.training.learning_rate) == (3, 0.5)
    assert (protocol.training.optimizer, protocol.model.unseen_classes) == ("sgd", "masked")
    assert (protocol.scenarios, protocol.model.hidden) == (["class"], [7, 8])
    assert protocol.methods["si"].clip is False
    assert protocol.methods["ewc"].fisher == "sample"
    assert (protocol.strength_of("ewc", "class"), protocol.strength_of("si", "class")) == (1000.0, "tuned")


def test_an_override_changes_nothing_else_and_the_last_one_counts(protocol_file: Path, protocol: Protocol):
    changed = load_protocol(str(protocol_file), ["training.epochs=3", "training.epochs=4"])
    training = protocol.training.model_copy(update={"epochs": 4})
    assert changed == protocol.model_copy(update={"training": training})


def test_an_override_may_add_a_table_and_name_a_method_with_a_dot_in_it(protocol_file):
    protocol = load_protocol(str(protocol_file), ["methods.fine.kind=naive"])
    assert protocol.methods["fine"].kind == "naive"
    overrides = ['strength."si-c0.1".domain=0.5', "strength.'si-c0.02'.domain=0.25"]
    strength = load_protocol("zenke2017-permuted-mnist", overrides).strength
    assert [strength[name]["domain"] for name in ("si-c0.01", "si-c0.02", "si-c0.1")] == [0.02, 0.25, 0.5]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.epochs=0", "training.epochs = 0: input should be greater than or equal to 1"),
        ("training.epochs=three", "training.epochs = 'three': input should be a valid integer"),
        ("training.epochs=2.5", "training.epochs = 2.5: input should be a valid integer"),
        ('training.epochs=""', "training.epochs = '': input should be a valid integer"),
        ("training.epochs=", "[training]: exactly one of epochs and iterations says how long"),
        ("training.batch_size=", "training.batch_size is missing"),
        ("training.epoch=3", "[training]: unknown key 'epoch'; did you mean 'epochs'? allowed: epochs,"),
        ("trainin.epochs=3", "unknown key 'trainin'; did you mean 'training'? allowed: title,"),
        ("training.iterations=9", "[training]: exactly one of epochs and iterations says how long"),
        ("training=adam", "training = 'adam': input should be a valid dictionary or instance of Training"),
        ("methods.ewc.kind=wec", "methods.ewc.kind = 'wec'; did you mean 'ewc'? allowed: naive, "),
        ("benchmark.experiences=4", "[benchmark]: experiences = 4: split_digits has 10 classes; allowed: 2, 5, 10"),
        ("strength.ewc=5", "strength.ewc = 5: allowed: a λ for a scenario, as in strength.ewc.task = 5"),
        ("strength.naive.task=1", "strength.naive: no such method with a λ; allowed: l2,"),
    ],
)
def test_a_wrong_override_is_an_error_that_names_it_and_what_is_allowed(override, said, protocol_file):
    with pytest.raises(ProtocolError, match=re.escape(f"tiny.toml with --set {override}: {said}")):
        load_protocol(str(protocol_file), [override])


@pytest.mark.parametrize(
    ("name", "override", "said"),
    [
        ("fisher-split-cifar10-task", "benchmark.padding=2", "model.name = 'resnet18_reduced' takes CIFAR's images of"),
        ("split-cifar100-task", "benchmark.name=split_mnist", "[benchmark]: mean = [0.507, 0.487, 0.441]: images of"),
        (
            "vandeven2018-permuted-mnist-task",
            "benchmark.class_order=random",
            "[benchmark]: class_order = 'random': every experience of permuted_mnist has all classes",
        ),
        ("split-fmnist-task", "training.epochs=4", "[training]: exactly one of epochs and iterations says how long"),
    ],
)
def test_an_override_must_fit_the_rest_of_the_protocol(name, override, said):
    with pytest.raises(ProtocolError, match=re.escape(f"{name}.toml with --set {override}: {said}")):
        load_protocol(name, [override])


def test_nothing_after_the_equals_sign_removes_a_key(protocol_file):
    overrides = ["training.epochs=", "training.iterations=10", "strength.ewc = ", "methods.ewc=", "tuning="]
    protocol = load_protocol(str(protocol_file), overrides)
    assert (protocol.training.epochs, protocol.training.iterations) == (None, 10)
    assert "ewc" not in protocol.methods
    assert protocol.tuning is None
    assert load_protocol(str(protocol_file), ["training.epochs=", "training.epochs=3"]).training.epochs == 3


def test_of_two_lengths_the_error_says_how_to_remove_the_other(protocol_file):
    with pytest.raises(ProtocolError, match=r"training\.epochs= or --set training\.iterations= removes"):
        load_protocol(str(protocol_file), ["training.iterations=10"])


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "training.epoch=",
            "there is no training.epoch to remove; did you mean 'epochs'? allowed: epochs,",
        ),
        ("trainin.epochs=", "there is no trainin to remove; did you mean 'training'? allowed: title,"),
    ],
)
def test_what_is_not_there_cannot_be_removed(override, said, protocol_file):
    with pytest.raises(ProtocolError, match=re.escape(f"--set {override}: {said}")):
        load_protocol(str(protocol_file), [override])


@pytest.mark.parametrize("override", ["training.epochs", "=3", "training.=3", "training..epochs=3", "two words=3", ""])
def test_what_is_not_key_and_value_is_an_error_that_shows_an_example(override, protocol_file):
    with pytest.raises(ProtocolError) as caught:
        load_protocol(str(protocol_file), [override])
    assert str(caught.value) == f"--set {override}: allowed is KEY=VALUE, as in --set training.epochs=3"


@pytest.mark.parametrize(
    ("override", "table"), [("seeds.first=3", "seeds"), ("training.epochs.one=1", "training.epochs")]
)
def test_a_value_is_not_a_table(override, table, protocol_file):
    with pytest.raises(ProtocolError, match=f"--set {override}: {table} is not a table"):
        load_protocol(str(protocol_file), [override])


def test_overrides_leave_the_files_alone(protocol_file: Path):
    before = protocol_file.read_bytes()
    load_protocol(str(protocol_file), ["seeds=9"])
    assert protocol_file.read_bytes() == before
    assert tomllib.loads(before.decode())["seeds"] != 9
