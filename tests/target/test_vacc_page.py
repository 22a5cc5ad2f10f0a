"""docs/vacc.md has the figures of the cards' files, and every engine and figure by name."""

from __future__ import annotations

import subprocess
import sys

from support.project_tree import ROOT

from vamc_py.runstream.program import ENGINES
from vamc_py.target.vacc.device import Device, figures
from vamc_py.target.vacc.reference import table, value_text

PAGE = (ROOT / "docs" / "vacc.md").read_text(encoding="utf-8")
BEGIN, END = "<!-- figures: python -m vamc_py.target.vacc.reference -->\n", "<!-- end of figures -->"


def test_committed_figures_are_the_generated_ones() -> None:
    assert PAGE.partition(BEGIN)[2].partition(END)[0] == table()


def test_module_prints_the_table() -> None:
    command = [sys.executable, "-m", "vamc_py.target.vacc.reference"]
    assert subprocess.run(command, capture_output=True, check=True).stdout.decode() == table()


def test_every_figure_of_every_card_is_in_the_table() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table().splitlines()[2:]]
    key, found = "", set()
    for figure, cards, value, status, source in rows:
        key = figure.split("`")[1] if figure else key
        names = ["VA1", "VA1L", "VA10", "VA16"] if cards == "all" else cards.split(", ")
        found |= {(key, name, value, status.strip("*"), source) for name in names}
    expected = {
        (fact.key, name, value_text(fact.key, fact.value), fact.status, fact.source)
        for name in Device.names()
        if name != "tiny"
        for fact in Device.named(name).facts()
    }
    assert found == expected
    assert {row[0] for row in expected} == set(figures())


def test_every_engine_is_explained() -> None:
    assert all(f"| `{engine}` |" in PAGE for engine in ENGINES)


def test_values_have_units() -> None:
    pairs = [("ddr_bytes_s", 136e9), ("launch_s", 5e-7), ("clock_hz", 8.8e8), ("int8_ops", 1e14), ("cores", 8)]
    assert [value_text(key, value) for key, value in pairs] == ["136 GB/s", "0.5 µs", "880 MHz", "100 TOPS", "8"]
    assert [value_text("ssram_bytes", value) for value in (40_000_000, 32 << 30, 262_144)] == [
        "40 MB",
        "32 GiB",
        "0.262144 MB",
    ]
