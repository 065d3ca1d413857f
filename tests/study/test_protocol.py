import re

import pytest

from study.protocol import Protocol, ProtocolError, load_protocol, parse_protocol, protocol_names


def test_every_protocol_of_the_package_is_valid():
    assert "digits" in protocol_names()
    for name in protocol_names():
        assert isinstance(load_protocol(name), Protocol)


def test_lambda_is_that_of_the_scenario(protocol: Protocol):
    assert protocol.strength_of("ewc", "class") == protocol.strength["ewc"]["class"]
    assert protocol.strength_of("naive", "class") is None


@pytest.mark.parametrize(
    ("original", "replacement", "said"),
    [
        ("epochs = 1", "epochs = 0", "training.epochs = 0: input should be greater than or equal to 1"),
        ("epochs = 1", 'epochs = "1"', "training.epochs = '1': input should be a valid integer"),
        (
            "epochs = 1",
            "epoch = 1",
            "[training]: unknown key 'epoch'; did you mean 'epochs'? allowed: epochs,",
        ),
        ("epochs = 1", "", "training.epochs is missing"),
        (
            "learning_rate = 5e-3",
            "learning_rate = inf",
            "training.learning_rate = inf: input should be a finite",
        ),
        ('"adam"', '"adamw"', "training.optimizer = 'adamw': input should be 'adam' or 'sgd'"),
        ('"mlp"', '"resnet"', "model.name = 'resnet': input should be 'mlp'"),
        (
            "test_fraction = 0.25",
            "test_fraction = 1.0",
            "benchmark.test_fraction = 1.0: input should be less than 1",
        ),
        (
            '"domain", "class"]',
            '"domian"]',
            "scenarios.1 = 'domian': input should be 'task', 'domain' or 'class'",
        ),
        (
            'fisher = "exact" }',
            'fisher = "exakt" }',
            "methods.ewc.fisher = 'exakt': input should be 'exact',",
        ),
        (
            'fisher = "exact" }',
            'fishr = "exact" }',
            "[methods.ewc]: unknown key 'fishr'; did you mean 'fisher'?",
        ),
        ('kind = "si"', 'kind = "is"', "methods.si.kind = 'is': allowed: 'naive', 'joint', 'l2', 'ewc',"),
        ('kind = "si", ', "", "methods.si.kind is missing"),
        ("naive = {", '"a/b" = {', "methods.a/b = 'a/b': string should match pattern"),
        (
            "gamma = 1.0",
            "gamma = 1.5",
            "methods.online_ewc.gamma = 1.5: input should be less than or equal to 1",
        ),
        (
            "\nseeds = [1000,",
            "\nseeds = [0,",
            "tuning.seeds.0 = 0: input should be greater than or equal to 1000",
        ),
        ("\nseeds = 5", "\nseeds = 1001", "seeds = 1001: input should be less than or equal to 1000"),
        (
            "[strength]\n",
            "[strength]\nnaive = { task = 1 }\n",
            "strength.naive: no such method with a λ; allowed: l2,",
        ),
        (
            "[tuning.grid]\n",
            "[tuning.grid]\nsi2 = [1]\n",
            "tuning.grid.si2: no such method with a λ; allowed: l2,",
        ),
    ],
)
def test_an_error_names_file_key_value_and_what_is_allowed(text, original, replacement, said):
    assert original in text
    with pytest.raises(ProtocolError, match=re.escape(f"my.toml: {said}")):
        parse_protocol(text.replace(original, replacement, 1), "my.toml")


def test_every_error_is_named_at_once(text: str):
    wrong = text.replace("epochs = 1", "epochs = 0").replace('"mlp"', '"cnn"')
    with pytest.raises(ProtocolError) as caught:
        parse_protocol(wrong, "my.toml")
    assert [line.split(" = ")[0] for line in str(caught.value).splitlines()] == [
        "my.toml: model.name",
        "my.toml: training.epochs",
    ]


@pytest.mark.parametrize("table", ["strength", "tuning.grid"])
def test_a_method_without_its_lambda_is_an_error(text: str, table: str):
    head, tail = text.split(f"[{table}]\n")
    without = head + f"[{table}]\n" + re.sub(r"^mas = .*\n", "", tail, count=1, flags=re.M)
    with pytest.raises(ProtocolError, match=rf"{table}\.mas is missing"):
        parse_protocol(without, "my.toml")


def test_a_scenario_without_its_lambda_is_an_error(text: str):
    without = re.sub(r"(?m)^(si = \{.*), class = [^ ]+ \}", r"\1 }", text)
    assert without != text
    with pytest.raises(ProtocolError, match=r"strength\.si\.class is missing"):
        parse_protocol(without, "my.toml")


def test_what_is_not_toml_is_an_error_that_names_the_line(text: str):
    with pytest.raises(ProtocolError, match=r"my\.toml is not TOML: .*line 1"):
        parse_protocol("title = \n" + text, "my.toml")


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ProtocolError, match=r"unknown protocol 'digit'; did you mean 'digits'\? allowed: "):
        load_protocol("digit")


def test_a_missing_file_is_named():
    with pytest.raises(ProtocolError, match=r"no protocol file nowhere/my\.toml"):
        load_protocol("nowhere/my.toml")
