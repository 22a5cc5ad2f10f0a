"""``backend.target``: the CPU that a module is for, or the card; ``backend.device``: the card's figures."""

from __future__ import annotations

from pathlib import Path

import pytest

from vamc_py.config import load_text
from vamc_py.config.cpus import CPUS
from vamc_py.config.device import DeviceFigures
from vamc_py.errors import ConfigError
from vamc_py.target.vacc.device import Device, figures, whole

TEXT = """\
name: small
frontend:
  checkpoint: models/small
  type: huggingface
  shape:
    input_ids: [[512], [2048]]
backend:
  type: tvm_llvm
  dtype: int8
  target: {target}
"""


@pytest.mark.parametrize("name", ["native", *CPUS])
def test_names_are_taken(name: str) -> None:
    assert load_text(TEXT.format(target=name), Path("c.yaml")).config.backend.target == name


def test_this_machine_is_the_default() -> None:
    text = TEXT.replace("  target: {target}\n", "")
    assert load_text(text, Path("c.yaml")).config.backend.target == "native"


@pytest.mark.parametrize(
    ("name", "ending"),
    [("zen4", "; did you mean znver4?"), ("x86-64-v2", "; did you mean x86-64-v4?"), ("nehalem", ", znver5")],
)
def test_other_names_are_one_sentence_at_their_place(name: str, ending: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(TEXT.format(target=name), Path("c.yaml"))
    (fault,) = caught.value.faults
    assert fault.startswith(
        f"c.yaml:10:11: backend.target: {name!r} is no CPU with AVX2, FMA and F16C that this version knows; known are "
        "native, x86-64-v3, x86-64-v4, haswell, "
    )
    assert fault.endswith(ending)


def test_an_override_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(TEXT.format(target="znver4"), Path("c.yaml"), ["backend.target=znver9"])
    assert caught.value.faults[0].startswith("--set backend.target=znver9: backend.target: 'znver9' is no CPU")


def test_other_kinds_of_values_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"backend\.target: must be text, not the number 4"):
        load_text(TEXT.format(target="4"), Path("c.yaml"))


def vacc(target: str, device: str = "") -> str:
    text = TEXT.format(target=target).replace("tvm_llvm", "tvm_vacc")
    return f"{text}  device:\n    {device}\n" if device else text


def test_it_is_not_used_on_cuda() -> None:
    loaded = load_text(TEXT.format(target="znver4").replace("tvm_llvm", "tvm_cuda"), Path("c.yaml"))
    assert any("backend.target" in notice for notice in loaded.notices)


@pytest.mark.parametrize(("target", "card"), [("native", "VA16"), ("va1", "VA1"), ("VA1l", "VA1L"), ("Tiny", "tiny")])
def test_cards_on_vacc(target: str, card: str) -> None:
    loaded = load_text(vacc(target), Path("c.yaml"))
    assert (loaded.config.card, loaded.notices) == (card, ())
    assert loaded.config.device == Device.named(card)


def test_a_cpu_is_no_card() -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(vacc("VA100"), Path("c.yaml"))
    assert caught.value.faults == [
        "c.yaml:10:11: backend.target: 'VA100' is no card of vacc that this version knows; known are VA1, VA1L, VA10, "
        "VA16, tiny; did you mean VA10?"
    ]
    with pytest.raises(ConfigError, match=r"backend\.target: 'znver4' is no card of vacc"):
        load_text(TEXT.format(target="znver4").replace("  type: tvm_llvm\n", ""), Path("c.yaml"))


def test_figures_can_be_changed() -> None:
    loaded = load_text(vacc("VA16", "ddr_bytes_s: 200.0e+9"), Path("c.yaml"), ["backend.device.cores=4"])
    device = loaded.config.device
    assert (device.ddr_bytes_s, device.cores, device.clock_hz) == (2e11, 4, 880e6)
    assert load_text(loaded.text, Path("c.yaml")).config.device == device


def test_every_figure_but_the_tile_is_a_key() -> None:
    keys = {key: field.annotation for key, field in DeviceFigures.model_fields.items()}
    assert tuple(keys) == tuple(key for key in figures() if key != "matrix_tile")
    assert {key: kind == (int | None) for key, kind in keys.items()} == {key: whole(key) for key in keys}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("ddr_byte_s: 1", "12:5: backend.device.ddr_byte_s: unknown key; did you mean ddr_bytes_s?"),
        ("cores: 1.5", "12:12: backend.device.cores: must be a whole number, not the number 1.5"),
        ("cores: 0", "12:12: backend.device.cores: 0 is too small; it must be above 0"),
        (
            "clock_hz: 9e8",
            "12:15: backend.device.clock_hz: must be a number, not the text '9e8'; YAML's numbers have a point and a "
            "sign before the exponent, such as 1.5e+9",
        ),
        ("clock_hz: fast", "12:15: backend.device.clock_hz: must be a number, not the text 'fast'"),
    ],
)
def test_faulty_figures_are_named_at_their_place(line: str, fault: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(vacc("VA16", line), Path("c.yaml"))
    assert caught.value.faults == [f"c.yaml:{fault}"]
