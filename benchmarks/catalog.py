"""Which engines there are, by the names that the option --engine takes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.engine import Engine
from benchmarks.engines.llama_cpp import LlamaCpp
from benchmarks.engines.onnxruntime import OnnxRuntime
from benchmarks.engines.openvino import OpenVino
from benchmarks.engines.vamc import VamcPy
from benchmarks.shape import ModelShape
from vamc_py.errors import UserError

_ACTIVATIONS = ("int16", "bf16", "int8_g32", "int8_g64", "int8_g128", "int8_token")
ENGINES = (
    *(f"vamc-py:{activation}" for activation in _ACTIVATIONS),
    "openvino",
    "llama.cpp",
    "llama.cpp:fa-off",
    "onnxruntime",
)


def default_engines(shape: ModelShape) -> tuple[str, ...]:
    """Those that a model is measured with where none are named.

    The groups of int8 activations are of 128 columns, or of 64 where 128 do not divide the model's hidden size.
    """
    group = 128 if shape.hidden % 128 == 0 else 64
    ours = (f"vamc-py:int8_g{group}", "vamc-py:bf16", "vamc-py:int16")
    return (*ours, "openvino", "llama.cpp", "llama.cpp:fa-off", "onnxruntime")


def make_engine(name: str, environments: Path) -> Engine:
    """The engine of a name, its environment in a folder of ``environments``; UserError for an unknown name."""
    if name not in ENGINES:
        raise UserError(f"--engine {name}: there is {', '.join(ENGINES)}")
    kind, _, variant = name.partition(":")
    place = environments / kind
    if kind == "vamc-py":
        return VamcPy(place, variant)
    if kind == "openvino":
        return OpenVino(place)
    if kind == "llama.cpp":
        return LlamaCpp(place, variant.removeprefix("fa-") or "auto")
    return OnnxRuntime(place)
