"""From the YAML's ``passes`` to the pipeline, and every fault of it before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.foreign_passes import CLAMP, install, write_pass_file

from vamc_py import __version__
from vamc_py.config import LoadedConfig, load_text
from vamc_py.errors import ConfigError
from vamc_py.passes.quantize_int8 import QuantizeInt8
from vamc_py.pipeline.default import Numbers, default_pipeline
from vamc_py.pipeline.listing import pipeline_yaml
from vamc_py.pipeline.resolve import resolve_pipeline
from vamc_py.pipeline.runner import Planned, labels

BASE = """\
name: small
frontend: {checkpoint: models/small, shape: {input_ids: [[512], [2048]]}}
backend: {type: tvm_llvm, dtype: int8}
"""
DEFAULT = default_pipeline(Numbers("int8"))
LABELS = labels([one.name for one in DEFAULT])


def load(*entries: str, overrides: tuple[str, ...] = ()) -> LoadedConfig:
    """The first entry stands in line 5."""
    return load_text(BASE + "passes:\n" + "".join(f"  - {entry}\n" for entry in entries), Path("c.yaml"), overrides)


def resolve(*entries: str) -> tuple[Planned, ...]:
    return resolve_pipeline(load(*entries))


def faults(*entries: str, overrides: tuple[str, ...] = ()) -> list[str]:
    with pytest.raises(ConfigError) as refused:
        resolve_pipeline(load(*entries, overrides=overrides))
    return refused.value.faults


def order(pipeline: tuple[Planned, ...]) -> list[str]:
    return [step.label for step in pipeline]


def moved(label: str, at: int) -> list[str]:
    left = [other for other in LABELS if other != label]
    return [*left[:at], label, *left[at:]]


@pytest.fixture
def clamp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """clamp.py in the current directory."""
    write_pass_file(tmp_path)
    monkeypatch.chdir(tmp_path)


def test_without_changes_the_default_list_runs() -> None:
    pipeline = resolve()
    assert [step.one for step in pipeline] == list(DEFAULT)
    assert order(pipeline) == LABELS
    assert {(step.origin, step.place) for step in pipeline} == {(f"vamc-py {__version__}", None)}


def test_options_of_a_pass_that_runs() -> None:
    changed = {step.label: step for step in resolve("{name: quantize-int8, options: {lm_head: false}}")}
    assert list(changed) == LABELS
    assert changed["quantize-int8"].one == QuantizeInt8(lm_head=False)
    assert changed["quantize-int8"].place == "c.yaml:5:5"
    assert changed["fuse-residual"].place is None


def test_off() -> None:
    assert order(resolve("{name: fuse-residual, off: true}")) == [x for x in LABELS if x != "fuse-residual"]
    assert order(resolve("{name: simplify#5, off: true}")).count("simplify#4") == 1
    assert len(resolve("{name: fuse-residual, off: false, options: {}}")) == len(LABELS)


def test_moved() -> None:
    assert order(resolve("{name: fuse-swiglu, after: fuse-residual}")) == moved(
        "fuse-swiglu", LABELS.index("fuse-residual")
    )
    assert order(resolve("{name: fuse-residual, before: fuse-swiglu}")) == moved(
        "fuse-residual", LABELS.index("fuse-swiglu")
    )


def test_one_more_run() -> None:
    pipeline = resolve("{name: simplify, again: true, after: merge-linear}", "{name: simplify#6, after: fuse-swiglu}")
    names = order(pipeline)
    at = names.index("fuse-swiglu") + 1
    assert names[at] == "simplify#5"  # the fifth of now six
    assert (pipeline[at].place, len(names)) == ("c.yaml:6:5", len(LABELS) + 1)


def test_a_pass_of_a_file_is_inserted(clamp: None) -> None:
    inserted = "{file: 'clamp.py:Clamp', after: fuse-attention, options: {limit: 5}}"
    pipeline = resolve(inserted, "{name: clamp, options: {how: above}}")
    step = pipeline[order(pipeline).index("fuse-attention") + 1]
    assert (step.label, step.origin, step.place) == ("clamp", "clamp.py:Clamp", "c.yaml:6:5")
    assert (step.one.limit, step.one.how) == (5.0, "above")  # type: ignore[attr-defined]
    assert (
        order(resolve("{file: 'clamp.py:Clamp'}", "{file: 'clamp.py:Clamp', off: false, options: {}}")).count("clamp")
        == 1
    )


def test_a_pass_of_a_package_is_added_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "clamping", "1.2", {"clamp": "resolved_passes:Clamp"}, resolved_passes=CLAMP)
    monkeypatch.syspath_prepend(tmp_path)
    step = next(step for step in resolve("{name: clamp}") if step.label == "clamp")
    assert (step.origin, step.place) == ("clamping 1.2", "c.yaml:5:5")


@pytest.mark.parametrize(
    ("stage", "before"), [("raise", "strided-slice"), ("rewrite", "select-kernels"), ("lower", "bundle-parameters")]
)
def test_without_a_place_it_runs_at_the_end_of_its_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, before: str
) -> None:
    text = CLAMP.replace('= "rewrite"', f'= "{stage}"').replace('("kv-cache-layout", "a-pass-that-nobody-has")', "()")
    write_pass_file(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    names = order(resolve("{file: 'clamp.py:Clamp'}"))
    assert names[names.index("clamp") + 1] == before


def test_clear_starts_from_nothing(clamp: None) -> None:
    entries = ["clear: true", "name: raise-linear", "{name: simplify}", "name: simplify", "name: kv-cache-layout",
               "name: flatten-batch", "file: 'clamp.py:Clamp'", "{name: quantize-int8, options: {lm_head: false}}",
               "name: lower-reference", "name: bundle-parameters"]  # fmt: skip
    pipeline = resolve(*entries)
    assert order(pipeline) == ["raise-linear", "simplify#1", "simplify#2", "kv-cache-layout", "flatten-batch", "clamp",
                               "quantize-int8", "lower-reference", "bundle-parameters"]  # fmt: skip
    assert pipeline[6].one == QuantizeInt8(lm_head=False)
    assert [step.place for step in pipeline] == [f"c.yaml:{line}:5" for line in range(6, 15)]


def test_what_the_command_prints_resolves_to_the_same(clamp: None) -> None:
    changes = (
        "{name: quantize-int8, options: {lm_head: false}}",
        "{file: 'clamp.py:Clamp'}",
        "{name: simplify#1, off: true}",
    )
    pipeline = resolve(*changes)
    text = "\n".join(pipeline_yaml(pipeline))
    again = resolve_pipeline(load_text(f"{BASE}{text}\n", Path("d.yaml")))
    # A file is imported each time, so its class is another one.
    assert [(s.label, repr(s.one), s.origin) for s in again] == [(s.label, repr(s.one), s.origin) for s in pipeline]


FIVE = "simplify#1, simplify#2, simplify#3, simplify#4, simplify#5"


def test_every_entry_is_looked_at(clamp: None) -> None:
    assert faults(
        "{name: fuse-residal, off: true}",
        "{name: fuse-swiglu}",
        "{name: simplify}",
        "{name: simplify#9, off: true}",
        "{name: fuse-swiglu, after: simplify}",
        "{name: fuse-swiglu, after: fuse-swiglu}",
        "{name: fuse-residual, off: true}",
        "{name: fuse-swiglu, after: fuse-residual}",
        "{name: clamp, again: true}",
        "{name: no-such-pass}",
        "{file: 'clamp.py:Clump'}",
        "{file: 'clamp.py:Clamp', options: {limit: x, limt: 1}}",
        "{file: 'clamp.py:Clamp', options: {limit: -1}}",
    ) == [
        "c.yaml:5:12: passes[0].name: fuse-residal does not run, so it cannot be switched off; "
        "did you mean fuse-residual?",
        "c.yaml:6:12: passes[1].name: fuse-swiglu runs already; say options, after, before or off, or again: true",
        f"c.yaml:7:12: passes[2].name: simplify runs 5 times; name one of {FIVE}",
        f"c.yaml:8:12: passes[3].name: no simplify#9 runs here; name one of {FIVE}",
        f"c.yaml:9:32: passes[4].after: simplify runs 5 times; name one of {FIVE}",
        "c.yaml:10:32: passes[5].after: fuse-swiglu cannot stand beside itself",
        "c.yaml:12:32: passes[7].after: fuse-residual was switched off above; name one that runs",
        "c.yaml:13:26: passes[8].again: clamp does not run yet; remove again",
        "c.yaml:14:12: passes[9].name: no pass has the name no-such-pass; `vamc-py passes` lists them",
        "c.yaml:15:12: passes[10].file: clamp.py: there is no class Clump; did you mean Clamp?",
        "c.yaml:16:47: passes[11].options.limit: the option limit of clamp must be a number, not the text 'x'",
        "c.yaml:16:56: passes[11].options.limt: the pass clamp has no option limt; did you mean limit?",
        "c.yaml:17:30: passes[12].options: the pass clamp: limit is -1.0; it must be above 0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (
            ["{name: lower-reference, off: true}"],
            "5:5: passes[0]: the pass bundle-parameters needs lower-reference to run before it; put that there",
        ),
        (
            ["{name: bundle-parameters, off: true}"],
            "5:5: passes[0]: the list must end with bundle-parameters, which the runtime relies on; put it there",
        ),
        (
            ["{name: bundle-parameters, again: true}"],
            "5:5: passes[0]: bundle-parameters runs 2 times; it must run once, at the end",
        ),
        (
            ["{name: simplify, again: true, after: bundle-parameters}"],
            "5:5: passes[0]: the list must end with bundle-parameters, but simplify stands behind it; put it before",
        ),
        (
            ["{name: merge-linear, after: fuse-residual}"],
            "5:5: passes[0]: the pass fuse-swiglu must run after merge-linear; put it behind",
        ),
        (
            ["{name: fuse-attention, before: raise-linear}"],
            "5:5: passes[0]: the pass fuse-attention must run after flatten-batch, merge-linear, raise-rotary; "
            "put it behind",
        ),
        (
            ["{name: select-kernels, before: fuse-attention}"],
            "5:5: passes[0]: the passes do not keep the order of the stages (raise, rewrite, lower): fuse-attention "
            "(rewrite) stands behind select-kernels (lower); put it before",
        ),
        (
            ["{clear: true}", "name: simplify"],
            "5:3: passes: the list must end with bundle-parameters, which the runtime relies on; put it there",
        ),
    ],
)
def test_a_list_that_cannot_run(entries: list[str], expected: str) -> None:
    assert faults(*entries)[0] == f"c.yaml:{expected}"


def test_a_file_s_pass_may_stand_in_for_a_built_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pass_file(tmp_path, CLAMP.replace('"clamp"', '"fuse-residual"'))
    monkeypatch.chdir(tmp_path)
    assert faults("{file: 'clamp.py:Clamp'}") == [
        f"c.yaml:5:12: passes[0].file: its pass has the name of fuse-residual (vamc-py {__version__}), which runs "
        "already; switch that off first, or choose another name"
    ]
    pipeline = resolve("{name: fuse-residual, off: true}", "{file: 'clamp.py:Clamp', after: fuse-swiglu}")
    assert order(pipeline) == LABELS
    assert pipeline[LABELS.index("fuse-residual")].origin == "clamp.py:Clamp"


def test_a_pass_for_another_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_pass_file(
        tmp_path, CLAMP.replace("    stage:", '    targets: ClassVar[tuple[str, ...]] = ("vacc",)\n    stage:')
    )
    monkeypatch.chdir(tmp_path)
    assert faults("{file: 'clamp.py:Clamp'}") == [
        "c.yaml:5:5: passes[0]: the pass clamp does not serve the target llvm, only vacc; leave it out"
    ]


def test_a_target_without_a_list() -> None:
    assert faults(overrides=("backend.type=tvm_cuda",)) == [
        "--set backend.type=tvm_cuda: backend.type: tvm_cuda has no list of passes yet; tvm_llvm has "
        "(--set backend.type=tvm_llvm)"
    ]
