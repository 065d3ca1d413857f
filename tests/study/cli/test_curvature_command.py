"""``clreg-study curvature``, end to end on the embedded protocols with little training."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.cli.app import app

KFAC = ["--set", "methods.mine.kind=kfac"]
SHORT = ["--set", "training.epochs=1", "--samples", "60"]


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["curvature", *arguments])
    assert result.exit_code in (0, 2), result.output
    return result.exit_code, " ".join(result.output.split())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("name", "scenario"), [("digits", "task"), ("permuted-digits", "domain")])
def test_an_embedded_protocol_has_a_page_that_is_written_again_from_its_data(name, scenario, tmp_path):
    given = [name, *KFAC, "--set", f"strength.mine.{scenario}=100", *SHORT]
    code, output = invoke(*given, "--seed", "3", "--out", str(tmp_path))
    assert code == 0, output
    assert "| | none | mine | online_ewc |" in output
    assert f"{scenario}-incremental, seed 3" in output
    files = contents(tmp_path)
    assert files.keys() == {"README.md", "curvature.json", "curvature.svg"}
    data, page = json.loads(files["curvature.json"]), files["README.md"].decode()
    assert [(path["run"]["label"], path["run"]["strength"]) for path in data["paths"]][:2] == [
        ("none", None),
        ("mine", 100),
    ]
    assert {"torch", "avalanche-lib"} <= data["versions"].keys()
    share = data["paths"][0]["predicted"]["kfac"][-1] / data["paths"][0]["gauss_newton"][-1]
    row = next(line for line in page.splitlines() if line.startswith("| Kronecker factors |"))
    assert float(row.split("|")[2].strip(" %")) == pytest.approx(100 * share, rel=0.05)
    answer = page.split("\n\n")[2].splitlines()
    assert f"the Kronecker factors give {row.split('|')[2].strip()}, " in answer[0], "the sentence says it too"
    assert [line.split(":")[0] for line in answer] == ["- **none", "- **mine", "- **online_ewc"]
    assert "](figures/curvature.svg)" in page
    command = next(line for line in page.splitlines() if line.startswith("clreg-study"))
    assert command == (
        f"clreg-study curvature {name} --seed 3 --samples 60 --set methods.mine.kind=kfac "
        f"--set strength.mine.{scenario}=100 --set training.epochs=1"
    )
    svg = files["curvature.svg"].decode()
    assert all(f">{text}<" in svg for text in ("none", "mine, λ = 100", "Gauss–Newton", "diagonal, batched"))
    (tmp_path / "README.md").unlink()
    good = files["curvature.json"]
    for spoil, said in (
        (lambda found: found.update(paths=[]), "paths: List should have at least 1 item"),
        (lambda found: found["paths"][0]["actual"].pop(), "every curve needs a value"),
        (lambda found: found["paths"][0]["predicted"].pop("kfac"), "predicted holds exact"),
    ):
        spoil(damaged := json.loads(good))
        (tmp_path / "curvature.json").write_text(json.dumps(damaged))
        code, output = invoke(name, "--rebuild", "--out", str(tmp_path))
        assert (code, said in output) == (2, True), output
    (tmp_path / "curvature.json").write_bytes(good)
    code, output = invoke(name, "--rebuild", "--out", str(tmp_path))
    assert code == 0, output
    assert contents(tmp_path) == files


def test_methods_can_be_chosen(protocol_file, tmp_path):
    out = tmp_path / "out"
    code, output = invoke(str(protocol_file), "--methods", "si", "--scenario", "domain", *SHORT, "--out", str(out))
    assert code == 0, output
    assert "| | si |" in output
    assert "domain-incremental, seed 0" in output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--methods", "joint"], "--methods: unknown name 'joint'"),
        (["--scenario", "tsk"], "--scenario: unknown name 'tsk'"),
        (["--scenario", "task,domain"], "--scenario task,domain: allowed: one of task, domain, class"),
        (["--rebuild"], "curvature.json; `clreg-study curvature` without --rebuild writes it"),
        (
            ["--set", "training.optimizer=sgd", "--set", "benchmark.std=1e-6"],
            "class-incremental naive, seed 0: the training loss became nan",
        ),
    ],
)
def test_what_cannot_be_done_is_one_message(protocol_file, tmp_path, arguments, said):
    arguments = ["--scenario", "class", *arguments] if "--scenario" not in arguments else arguments
    code, output = invoke(str(protocol_file), *arguments, "--out", str(tmp_path / "out"))
    assert code == 2
    assert said in output


def test_a_folder_of_something_else_is_left_alone(protocol_file, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    code, output = invoke(str(protocol_file), "--out", str(tmp_path))
    assert code == 2
    assert "holds the page of something else" in output
    (tmp_path / "curvature.json").write_text("{}")
    code, output = invoke(str(protocol_file), "--rebuild", "--out", str(tmp_path))
    assert code == 2
    assert "curvature.json is not a measurement of curvature: title: Field required" in output
    assert (tmp_path / "README.md").read_text() == "mine"
