"""Tables for the terminal."""

import dataclasses
import io

from rich.console import Console
from rich.table import Table

from study.campaign.strength_search import choose
from study.report.terminal_tables import choice_table, method_results, protocol_table, scenario_table, strength_toml
from tests.study.report.synthetic import TEXT, all_records, failed, search_records, toy


def shown(table: Table) -> dict[str, list[str]]:
    """The cells of each row by its first."""
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    rows = [line.replace("┃", "│").strip("│ ").split("│") for line in console.export_text().splitlines()]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows if len(cells) > 1}


def test_a_scenario_shows_means_over_what_finished():
    protocol = toy()
    records = [*all_records(protocol), failed(protocol, "ewc", 4), failed(protocol, "naive", 4)]
    rows = shown(scenario_table("Toy", "class", method_results(records, "class")))
    assert rows["ewc"] == ["100", "4", "61.00 [59.70, 62.30]", "56.25 [49.84, 62.66]"]
    assert rows["joint"][3] == "–"
    assert rows["naive"][1] == "4"


def test_a_method_of_which_nothing_finished_has_a_row_without_numbers():
    rows = shown(scenario_table("Toy", "class", method_results([failed(toy(), "ewc", 0)], "class")))
    assert rows["ewc"] == ["100", "0", "–", "–"]


def test_choices_are_shown_and_written_as_a_protocol_has_them():
    protocol = toy()
    choices = choose("toy", protocol, search_records(protocol))
    rows = shown(choice_table("Toy", [choice for choice in choices if choice.scenario == "class"]))
    assert rows["class"][:2] == ["online_ewc", "1, gamma = 0.5 (edge)"]
    assert strength_toml(choices).splitlines()[0] == "ewc = { task = 10, class = 10 }"


def test_a_protocol_shows_what_it_leaves_to_the_search():
    rows = shown(protocol_table(toy(TEXT.replace("class = 1e6", 'class = "tuned"'))))
    assert rows["online_ewc"][1:] == ["0.01", "tuned"]
    assert rows["naive"][1:] == ["–", "–"]


def test_what_users_wrote_is_shown_as_it_is_and_is_no_markup():
    results = method_results([failed(toy(), "ewc", 0, run={"label": "[/ewc]"})], "class")
    table = scenario_table("[/digits] [bold]", "class", results)
    assert "[/ewc]" in shown(table)
    assert "[/digits] [bold], class-incremental" in title(table)
    choices = choose("toy", toy(), search_records(toy()))
    marked = [dataclasses.replace(choice, method="[/x]") for choice in choices]
    assert shown(choice_table(":warning: [x]", marked))["class"][0] == "[/x]"
    assert ":warning: [x]: the search" in title(choice_table(":warning: [x]", marked))


def title(table: Table) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(table)
    return " ".join(console.export_text().split())
