"""The HTML report: one file without a request, drawn by a real browser, and safe with any text in it."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import LAPTOP, PHONE, Tab, Tabs, running_browser
from support.report_sample import FOREIGN_PASS, LONG_LINES, LONG_PASS, sample_report

from vamc_py.inspect.page import render_page
from vamc_py.inspect.report_model import Report

LAYERS = 28
HOSTILE = """</script><img src=x onerror="document.title='run'"><!--<script>"""
SECTIONS = ["overview", "pipeline", "graph", "memory", "roofline", "configuration"]
MOST_SECONDS = 3.0  # to open a report of 28 layers; it takes about a third of one

Open = Callable[..., Any]  # a report (else a sample) and Tabs.open's options -> Playwright's page


@pytest.fixture(scope="module")
def tabs() -> Iterator[Tabs]:
    with running_browser() as browser:
        yield Tabs(browser)


@pytest.fixture
def open_report(tabs: Tabs, tmp_path: Path) -> Iterator[Open]:
    """Opens reports; at the end nothing may have gone wrong in them, and nothing but their file been asked for."""
    file = tmp_path / "report.html"
    used: list[Tab] = []

    def open_one(report: Report | None = None, **options: Any) -> Any:
        file.write_text(render_page(report or sample_report(3)), encoding="utf-8")
        used.append(tabs.open(file, **options))
        return used[-1].page

    yield open_one
    assert used != []
    assert [tab.faults for tab in used] == [[] for _ in used]
    assert {url.partition("#")[0] for tab in used for url in tab.requests} == {file.as_uri()}


def data_of(page: str) -> str:
    [text] = re.findall(r'<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    return text


def overflow(page: Any) -> int:
    """How many pixels the page is wider than the window."""
    return page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


def step_row(page: Any, label: str) -> Any:
    return page.locator(".step", has=page.get_by_text(label, exact=True))


def contrast(first: str, second: str) -> float:
    """WCAG's contrast ratio of two colours such as "#0a5bb0"."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def test_the_page_holds_the_whole_report() -> None:
    report = sample_report(2)
    assert Report.model_validate_json(data_of(render_page(report))) == report


def test_hostile_text_is_data_in_the_page() -> None:
    report = sample_report(2, suffix=HOSTILE)
    page = render_page(report)
    assert "<img" not in page
    assert page.count("</script>") == render_page(sample_report(2)).count("</script>")
    assert Report.model_validate_json(data_of(page)) == report


def test_the_policy_allows_these_scripts_and_styles_alone() -> None:
    page = render_page(sample_report(2))
    [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for tag in ("script", "style"):
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts]
        assert rules[f"{tag}-src"].split() == [f"'sha256-{digest}'" for digest in hashes] != []
    assert re.findall(r"""(?:src|href)=["']?(?!#)[^"'\s>]+""", page) == []


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_what_is_behind_it(scheme: int) -> None:
    """4.5 to 1 is what WCAG asks of small text, 3 to 1 of the outlines of controls and of coloured marks."""
    style = re.findall(r"<style>(.*?)</style>", render_page(sample_report(2)), re.DOTALL)[0]
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[: scheme + 1]
    colours = {name: value for block in blocks for name, value in re.findall(r"--([\w-]+): (#\w{6});", block)}
    behind = ("back", "surface", "sunken", "accent-soft", "warn-soft", "removed", "added")
    texts = ("text", "muted", "accent", "warn", "fewer", "more", "removed-sign", "added-sign")
    marks = ("line-strong", "linear", "attention", "norm", "activation", "lookup", "other")
    least = {(text, back): 4.5 for text in texts for back in behind} | {(mark, "surface"): 3.0 for mark in marks}
    ratios = {(front, back): contrast(colours[front], colours[back]) for front, back in least}
    assert {pair: ratio for pair, ratio in ratios.items() if ratio < least[pair]} == {}


@pytest.mark.parametrize(("viewport", "scheme"), [(LAPTOP, "light"), (PHONE, "dark")], ids=["laptop", "phone"])
def test_each_section_is_drawn_and_fits(open_report: Open, viewport: dict[str, int], scheme: str) -> None:
    page = open_report(sample_report(LAYERS), viewport=viewport, color_scheme=scheme)
    assert page.title() == "sample: vamc-py report"
    assert [s.get_attribute("id") for s in page.locator("main > section").all()] == SECTIONS
    assert page.locator("h1").inner_text() == "sample"
    assert page.locator("#facts dd").count() == 3
    assert page.locator("#notes li").all_inner_texts() == ["1 x less_equal runs on TVM's own loops"]
    assert page.locator(".step").count() == 9
    assert page.locator(".fold").count() == LAYERS
    assert page.locator(".memory-chart .value").count() == 9 * LAYERS + 6
    assert page.locator(".roofline-chart svg").count() == 2
    assert page.locator("#config-table tbody tr").count() == 4
    assert overflow(page) == 0
    page.locator("#unfold-all").click()
    step_row(page, "raise-linear").locator("button").click()
    assert overflow(page) == 0
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor").startswith("rgb(18,")
    assert dark == (scheme == "dark")


def test_a_report_of_28_layers_opens_quickly(open_report: Open, capsys: pytest.CaptureFixture[str]) -> None:
    report = sample_report(LAYERS)
    started = time.perf_counter()
    page = open_report(report)
    page.locator("#config-table tbody tr").last.wait_for()
    seconds = time.perf_counter() - started
    with capsys.disabled():
        print(f"\na report of {LAYERS} layers opens in {seconds:.2f} s", end=" ")
    assert seconds < MOST_SECONDS


def test_64_unfolded_layers_stay_fluid(open_report: Open) -> None:
    page = open_report(sample_report(64))
    milliseconds = page.evaluate(
        """() => {
          const started = performance.now();
          document.getElementById("unfold-all").click();
          document.getElementById("graph-canvas").getBoundingClientRect();
          return performance.now() - started;
        }"""
    )
    assert page.locator("#graph-canvas .node").count() == 64 * 9 + 6
    assert milliseconds < 1000


def test_a_pass_shows_what_it_changed(open_report: Open) -> None:
    step = step_row(open_report(), "raise-linear")
    assert step.locator(".step-detail").is_hidden()
    assert step.locator(".step-seconds").inner_text() == "20.0 ms"
    assert step.locator(".step-calls").inner_text() == "28"
    assert step.locator(".step-difference").inner_text() == "−19"
    step.locator("button").first.click()
    assert step.locator(".summary").inner_text() == "What raise-linear does."
    assert step.locator("tbody tr").all_inner_texts() == [
        "linear\t0\t19\t+19",
        "matmul\t19\t0\t−19",
        "permute_dims\t19\t0\t−19",
    ]
    assert step.locator(".hunk-title").inner_text() == "layer 0the same in layers 1 to 2"
    assert [line.split("\n") for line in step.locator(".line").all_inner_texts()] == [
        [" ", "a = rms_norm(x, w)"],
        ["-", "b = permute_dims(v)"],
        ["-", "c = matmul(a, b)"],
        ["+", "c = linear(a, v)"],
    ]
    step.locator("button").first.click()
    assert step.locator(".step-detail").is_hidden()


def test_a_pass_of_another_package_is_marked(open_report: Open) -> None:
    page = open_report()
    step = step_row(page, FOREIGN_PASS)
    assert step.locator(".mark").all_inner_texts() == ["other_passes 1.2", "model.yaml:9:5"]
    assert page.locator(".mark.foreign").count() == 1
    assert step.locator(".step-difference").inner_text() == "no change"
    step.locator("button").first.click()
    facts = step.locator(".pairs").inner_text()
    assert "option bound\n30" in facts
    assert "option where\nlast" in facts
    assert "found nothing to do" in step.locator(".difference").inner_text()
    page.get_by_label("only what changed something").check()
    assert step.is_hidden()
    assert step_row(page, "build").is_visible()


def test_a_long_difference_waits_for_a_click(open_report: Open) -> None:
    step = step_row(open_report(), LONG_PASS)
    step.locator("button").first.click()
    shown = step.locator(".line").count()
    assert 0 < shown < LONG_LINES
    step.get_by_text(f"Show {LONG_LINES - shown} more lines").click()
    assert step.locator(".line").count() == LONG_LINES


def test_bars_keep_short_passes_visible(open_report: Open) -> None:
    page = open_report()
    widths = {}
    for scale in ("square root", "linear"):
        page.get_by_role("button", name=scale, exact=True).click()
        bars = [step_row(page, label).locator(".step-bar .bar") for label in ("raise-linear", "build")]
        short, long = (bar.bounding_box()["width"] for bar in bars)
        widths[scale] = short / long
    assert widths["linear"] == pytest.approx(0.02 / 9, abs=0.002)
    assert widths["square root"] == pytest.approx((0.02 / 9) ** 0.5, abs=0.002)
    assert step_row(page, "weights").locator(".step-bar .bar").count() == 0  # nobody measured it


def test_layers_fold_and_unfold(open_report: Open) -> None:
    page = open_report()
    nodes = page.locator("#graph-canvas .node")
    assert nodes.count() == 6
    page.get_by_role("button", name="layer 1, 9 nodes").click()
    assert nodes.count() == 15
    page.locator(".folded-box").first.click()
    assert nodes.count() == 24
    page.get_by_role("button", name="Unfold all", exact=True).click()
    assert nodes.count() == 33
    page.get_by_role("button", name="Fold all", exact=True).click()
    assert nodes.count() == 6


def test_nodes_stand_below_what_they_read(open_report: Open) -> None:
    page = open_report()
    page.locator("#unfold-all").click()
    tops = page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('.node')].map(n => [n.dataset.key.slice(5), n.offsetTop]))"
    )
    inputs = [(node.id, name) for node in sample_report(3).nodes for name in node.inputs if name in tops]
    assert len(tops) == 33
    assert [pair for pair in inputs if tops[pair[0]] <= tops[pair[1]]] == []
    edges = page.locator(".edge").count()
    assert edges == len(inputs)
    boxes = page.evaluate("[...document.querySelectorAll('.node')].map(n => [n.offsetLeft, n.offsetTop])")
    assert len({tuple(box) for box in boxes}) == 33  # none covers another


def test_search_finds_unfolds_and_steps(open_report: Open) -> None:
    page = open_report(sample_report(LAYERS))
    search, count = page.get_by_label("Search the graph"), page.locator("#match-count")
    search.fill("layers.7 gate_proj")
    page.get_by_text("1 match", exact=True).wait_for()
    assert page.locator(".node.match").get_attribute("data-key") == "node:gate7"
    assert page.locator(".fold[aria-expanded=true]").count() == 1
    search.fill("qkv_attention")
    page.get_by_text(f"{LAYERS} matches").wait_for()
    assert page.locator(".fold[aria-expanded=true]").count() == LAYERS
    for number in ("1", "2", "3"):
        search.press("Enter")
        assert count.inner_text() == f"{number} of {LAYERS} matches"
    search.press("Shift+Enter")
    current = page.locator(".node.current")
    assert current.get_attribute("data-key") == "node:attended1"
    assert current.bounding_box()["y"] < LAPTOP["height"]
    assert "attended1" in page.locator("#graph-details").inner_text()
    search.fill("no such node")
    page.get_by_text("no match", exact=True).wait_for()
    search.press("Escape")
    assert count.inner_text() == ""
    unfolded = page.locator(".fold[aria-expanded=true]")
    assert unfolded.all_inner_texts() == ["layer 1\n9 nodes"]  # the one that holds the chosen node


def test_a_node_shows_its_details_and_leads_to_others(open_report: Open) -> None:
    page = open_report()
    page.get_by_role("button", name="layer 0, 9 nodes").click()
    page.locator('[data-key="node:attended0"]').click()
    details = page.locator("#graph-details")
    text = details.inner_text()
    assert "kernel\nqkv_attention_64" in text
    assert "result\nfloat32[n, 64]" in text
    assert details.locator("tbody tr").all_inner_texts() == [
        "decode\t512 B\t128 op\t0.25",
        "prefill\t8.00 KiB\t2.05 kop\t0.25",
    ]
    assert details.locator(".outside code").all_inner_texts() == ["slots", "k_cache_0", "v_cache_0"]
    assert details.locator(".link code").all_inner_texts() == ["merged0", "angles", "mask", "out0"]
    assert page.locator(".edge.near").count() == 4
    details.locator(".link", has_text="mask").click()
    assert details.locator("h3").inner_text() == "less_equal mask"
    assert "TVM's own loops" in details.inner_text()
    details.locator(".link", has_text="attended2").click()  # in a folded layer
    assert page.locator(".node.chosen").get_attribute("data-key") == "node:attended2"
    page.keyboard.press("Escape")
    assert details.locator("h3").inner_text() == "Kernels of this graph"
    details.locator(".link", has_text="swiglu_64").click()
    page.get_by_text("3 matches").wait_for()


def test_the_graph_works_by_keyboard(open_report: Open) -> None:
    page = open_report()
    key = "document.activeElement.dataset.key"
    page.locator("#fold-all").focus()
    page.keyboard.press("Tab")
    assert page.evaluate(key) == "node:tokens_embedded"
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    assert page.evaluate(key) == "layer:0"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.evaluate(key) == "node:norm0"
    page.keyboard.press("Enter")
    assert page.locator("#graph-details h3").inner_text() == "rms_norm norm0"
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(key) == "layer:0"
    assert page.locator(".fold[aria-expanded=true]").count() == 0


def test_memory_tells_what_lives_at_a_node(open_report: Open) -> None:
    page = open_report()
    rows = page.locator(".memory-row").all_inner_texts()
    assert [row.split("\n")[0] for row in rows] == ["parameters", "caches", "activations", "together"]
    assert "64.0 KiB" in rows[1]
    assert page.locator(".peak-text").text_content() == "peak 36.0 KiB"
    readout = page.locator(".memory-chart .readout")
    assert "node 33 of 33: linear logits" in readout.inner_text()
    scrubber = page.get_by_label("Node of the step")
    scrubber.press("Home")
    scrubber.press("ArrowRight")
    assert readout.inner_text().split("\n") == [
        "node 2 of 33: rotary_angles angles, in no layer",
        "8.00 KiB live",
        "tokens_embedded in storage0",
        "angles in storage1",
    ]


def test_roofline_shows_figures_of_a_kernel(open_report: Open) -> None:
    page = open_report()
    part = page.locator(".roofline-part").first
    assert part.locator("h3").inner_text() == "decode: some tokens"
    assert part.locator(".point").count() == 6  # the embedding does no operations
    assert "embedding_64" in part.locator(".roofline-chart > p").inner_text()
    assert part.locator("tbody tr").first.inner_text().split()[:2] == ["1", "linear_64"]
    assert {row.split("\t")[-2].strip() for row in part.locator("tbody tr").all_inner_texts()} == {"50 %"}
    part.locator(".point").first.focus()
    assert "linear_64" in part.locator(".readout").inner_text()
    assert "50 % of the limit" in part.locator(".readout").inner_text()
    part.locator("tbody tr").nth(1).hover()
    assert "rms_norm_64" in part.locator(".readout").inner_text()
    assert part.locator(".point.shown").get_attribute("data-point") == "2"


def test_roofs_are_the_peaks_that_were_measured(open_report: Open) -> None:
    report = sample_report()
    assert report.limits is not None
    without = report.limits.model_copy(update={"bf16_peak": None})
    for limits, names in ((report.limits, {"int8", "bfloat16", "float32"}), (without, {"int8", "float32"})):
        page = open_report(report.model_copy(update={"limits": limits}))
        texts = page.locator(".roofline-part").first.locator("text.roof-text").all_text_contents()
        assert {text.split()[0] for text in texts} == {*names, "read"}
        assert ("bfloat16 dot product" in page.locator(".limits").inner_text()) == ("bfloat16" in names)


def test_without_limits_nothing_is_drawn_against_them(open_report: Open) -> None:
    page = open_report(sample_report(2, measured=False))
    section = page.locator("#roofline")
    assert "Nothing was measured" in section.inner_text()
    assert section.locator("svg").count() == 0
    assert section.locator("th").all_inner_texts()[:6] == ["", "kernel", "calls", "moved", "operations", "op/byte"]
    assert section.locator("tbody tr").count() == 14


def test_configuration_is_filtered(open_report: Open) -> None:
    page = open_report()
    rows = page.locator("#config-table tbody tr")
    count = page.locator("#config-count")
    assert rows.nth(1).inner_text() == "frontend.shape.input_ids\t[[16],[64]]\tmodel.yaml:4:16"
    assert count.inner_text() == "4 of 4 values"
    assert rows.nth(3).get_attribute("class") == "default"
    page.get_by_label("hide defaults").check()
    assert [row.is_visible() for row in rows.all()] == [True, True, True, False]
    page.get_by_label("Filter the configuration").fill("--SET dtype")
    assert [row.is_visible() for row in rows.all()] == [False, False, True, False]
    assert count.inner_text() == "1 of 4 values"


def test_an_address_opens_its_step_or_node(open_report: Open) -> None:
    page = open_report(place="#step=merge-linear")
    assert step_row(page, "merge-linear").locator(".hunk").is_visible()
    assert "1 function added: step" in step_row(page, "merge-linear").locator(".functions").inner_text()
    page = open_report(place="#node=down1")
    assert page.locator("#graph-details h3").inner_text() == "linear down1"
    page.locator('[data-key="node:out1"]').click()
    assert page.url.endswith("#node=out1")


def test_hostile_text_stays_text(open_report: Open) -> None:
    report = sample_report(2, suffix=HOSTILE)
    page = open_report(report)
    page.locator("#unfold-all").click()
    for row in page.locator(".step-row").all():
        row.click()
    page.locator(".node").nth(5).click()
    assert page.locator("img").count() == 0
    assert page.title() == f"sample{HOSTILE}: vamc-py report"
    assert page.locator("h1").inner_text() == f"sample{HOSTILE}"
    assert page.locator(".line code").first.inner_text() == f"a = rms_norm(x, w){HOSTILE}"
    assert page.locator("#graph-details").inner_text().count(HOSTILE) >= 5
    assert overflow(page) == 0


def test_on_a_phone_the_details_leave_the_node_in_sight(open_report: Open) -> None:
    page = open_report(viewport=PHONE, has_touch=True)
    page.locator(".folded-box").first.tap()
    page.locator('[data-key="node:active0"]').tap()
    details, node = page.locator("#graph-details").bounding_box(), page.locator(".node.chosen").bounding_box()
    assert node["y"] + node["height"] <= details["y"]
    assert overflow(page) == 0
    page.get_by_label("Close the details").tap()
    assert "Kernels of this graph" in page.locator("#graph-details").inner_text()
