"""The page that is rendered from results."""

from __future__ import annotations

import dataclasses

from benchmarks.figures import Results
from benchmarks.report import ms, render, summary, table
from benchmarks.sampling import heaviest
from tests.benchmarks.figures import JPEG, results


def section(page: str, title: str) -> str:
    return page.split(f"## {title}\n")[1].split("\n## ")[0]


def test_every_table_has_as_many_cells_in_each_row_as_in_its_head() -> None:
    for block in render(results()).split("\n\n"):
        if block.startswith("| "):
            head, _, *rows = block.splitlines()
            assert rows
            assert {row.count("|") for row in rows} == {head.count("|")}


def test_a_missed_target_is_told_with_its_profile_and_a_met_one_without() -> None:
    page = section(render(results()), "Targets")
    assert "| <= 3 | 4.00x | **missed** |" in page
    assert "50.0%  a place" in page
    assert "60.0%  another" not in page


def test_a_missed_picture_target_shows_the_parts_of_its_cpu() -> None:
    slow = results()
    slow.pairs = [dataclasses.replace(each, served=each.served / 2) for each in slow.pairs]
    page = section(render(slow), "Targets")
    assert f"**{JPEG}**" in page
    assert "60.0%  another" in page
    assert "| graph, alone in benchmark_app | 40.0 |" in page
    assert "| server, total | 60.0 |" in page


def test_what_was_not_measured_is_not_called_met() -> None:
    page = section(render(Results(machine={"cores": "2"}, quick=False, model={})), "Targets")
    assert "not measured" in page
    assert "| met |" not in page


def test_a_systems_row_says_how_much_faster_this_service_is() -> None:
    assert "| infinity | 8 | 10.0 | 3.1 |" in render(results())


def test_what_a_system_can_not_do_is_in_the_page() -> None:
    assert "| infinity | video | does not support video |" in render(results())


def test_a_disturbed_run_is_called_provisional_and_its_rows_are_marked() -> None:
    assert "Provisional" not in render(results())
    noisy = results()
    noisy.cells[0] = dataclasses.replace(noisy.cells[0], other_cores=0.5)
    page = render(noisy)
    assert "**Provisional: other processes ran during 1 of 4 loads" in page
    assert "0.50 (!)" in page


def test_a_quick_run_says_that_it_is_one() -> None:
    quick = results()
    quick.quick = True
    assert "A quick run" in render(quick)


def test_the_summary_names_the_machine_and_what_was_missed() -> None:
    page = summary(results())
    assert "a processor" in page
    (line,) = [each for each in page.splitlines() if "during a job" in each]
    assert line.endswith("MISSED")


def test_a_table_without_rows_is_nothing() -> None:
    assert table(["a"], []) == ""


def test_milliseconds_have_three_digits() -> None:
    assert [ms(each) for each in (0.00123, 0.0123, 0.123)] == ["1.23", "12.3", "123"]


def test_samples_are_added_up_by_our_innermost_function() -> None:
    ours = "embed (multimodal_embedding_serving/tower.py:60)"
    stacks = [
        f"main (run.py:1);{ours};b64decode (base64.py:80) 30",
        f"main (run.py:1);{ours};b64decode (base64.py:80) 30",
        f"main (run.py:1);{ours} 20",
        "main (run.py:1);loads (json.py:3) 20",
        "broken line",
    ]
    assert heaviest(stacks) == [
        f" 60.0%  {ours} > b64decode (base64.py:80)",
        f" 20.0%  {ours}",
        " 20.0%  loads (json.py:3)",
    ]


def test_no_samples_are_no_lines() -> None:
    assert heaviest([]) == []


def test_every_round_beside_the_limit_is_shown() -> None:
    page = section(render(results()), "Service compared with its limit")
    assert "| JPEG, 640x480 | 20.00 | 33.00 | 0.61 |" in page
    assert "| latency | 8.50 | 7.50 | 1.13 |" in page
