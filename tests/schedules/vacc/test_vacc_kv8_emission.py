"""Commands of an attention with an int8 KV cache, executed, against the operator's reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.relax_modules import Compiled, tensor
from tvm import relax, tirx

from vamc_py import dialect
from vamc_py.pipeline.program import Program as RelaxProgram
from vamc_py.runstream.check import check_program
from vamc_py.runstream.execute import Die, run_stage
from vamc_py.runstream.memory import DieMemory
from vamc_py.runstream.program import DdrTensor, Program, Transfer
from vamc_py.schedules.vacc.emit.attention import Attention, attend
from vamc_py.schedules.vacc.emit.decisions import Decisions
from vamc_py.schedules.vacc.emit.emitter import Emitter
from vamc_py.schedules.vacc.emit.stage import At, Stage
from vamc_py.schedules.vacc.emit.values import Value
from vamc_py.schedules.vacc.host import compile_kernels
from vamc_py.schedules.vacc.memory import plan_ddr
from vamc_py.schedules.vacc.parameters import Packed
from vamc_py.weights.plan import ParameterPlan

Array = np.ndarray[Any, Any]
SSRAM, DDR, CONTEXT, PREFILL = 1 << 20, 1 << 22, 64, 32
WIDE = Decisions(resident=1 << 18, inputs=1 << 18, weights=1 << 18, outputs=1 << 18, scores=1 << 18)
CUT = Decisions(resident=1 << 18, inputs=1 << 18, weights=16 * 48, outputs=1 << 18, scores=4096)
"""Blocks of 16 tokens, and keys and values in pieces of 16 positions, or of 48 where heads are small."""


@dataclass(frozen=True)
class Shape:
    heads: int
    kv_heads: int
    dim: int
    norms: bool = False
    offset: bool = False
    dtype: str = "int8"

    @property
    def width(self) -> int:
        return (self.heads + 2 * self.kv_heads) * self.dim

    @property
    def parameters(self) -> dict[str, tuple[int, ...]]:
        norms = {"q_norm": (self.dim,), "k_norm": (self.dim,)} if self.norms else {}
        return norms | ({"k_offset": (self.kv_heads, self.dim)} if self.offset else {})

    @property
    def options(self) -> dict[str, Any]:
        return {"epsilon": 1e-6 if self.norms else 0.0, "scale": self.dim**-0.5}


def reference(shape: Shape) -> tuple[RelaxProgram, list[Any]]:
    """The operator alone, and the variables of its caches."""
    n, s, p, pages, blocks = (tirx.Var(name, "int64") for name in ("n", "s", "p", "pages", "blocks"))
    dim, kv = shape.dim, shape.kv_heads
    integers = shape.dtype == "int8"
    kinds: dict[str, tuple[list[Any], str]] = {
        "qkv": ([n, shape.width], "float32"),
        **{name: (list(form), "float32") for name, form in shape.parameters.items()},
        "cos": ([n, dim], "float32"),
        "sin": ([n, dim], "float32"),
        "positions": ([n], "int32"),
        "slots": ([n], "int32"),
        "pages": ([s, p], "int32"),
        "k_cache": ([pages, kv, blocks, *((dim + 4, 16) if integers else (dim, 16))], shape.dtype),
        "v_cache": ([pages, kv, blocks, *((dim + 4, 16) if integers else (16, dim))], shape.dtype),
    }
    variables = [relax.Var(name, relax.TensorType(form, dtype)) for name, (form, dtype) in kinds.items()]
    builder = relax.BlockBuilder()
    with builder.function("main", variables):
        with builder.dataflow():
            heads = {"heads": shape.heads, "kv_heads": kv, "head_dim": dim}
            call = dialect.qkv_attention(*variables, **heads, **shape.options, k_offset=shape.offset)
            out = builder.emit_output(builder.emit(call))
        builder.emit_func_output(out)
    return RelaxProgram(builder.get(), ParameterPlan()), variables[-2:]


class Simulated:
    """The attention on a die: a program for a prefill and one for a token, over one memory."""

    def __init__(self, shape: Shape, caches: list[Any], parameters: dict[str, Array], path: Path) -> None:
        self.shape, self.path = shape, path
        packed = {name: Packed(name, "float32", form, "plain") for name, form in shape.parameters.items()}
        sizes = {"tokens": PREFILL, "context": CONTEXT, "vocabulary": PREFILL * shape.heads * shape.dim}
        self.plan = plan_ddr(packed, {"angles": shape.dim}, caches, **sizes)
        self.qkv = self.plan.add("qkv", "cache", "float32", (PREFILL, shape.width))
        with path.open("wb") as file:
            for one in self.tensors("parameter"):
                file.seek(one.offset)
                file.write(parameters[one.name].tobytes())
        self.dies: dict[int, tuple[Program, Die]] = {}  # by the tokens of a step
        self.memory = DieMemory(path, ddr_bytes=DDR, ssram_bytes=SSRAM)

    def tensors(self, role: str) -> Iterator[DdrTensor]:
        return (one for one in self.plan.tensors if one.role == role)

    def program(self, tokens: int, decisions: Decisions) -> tuple[Program, dict[str, Any]]:
        """Proven to be safe; and its kernels."""
        plan, shape = self.plan, self.shape
        registers = {"position": CONTEXT, "row": tokens}
        stage = Stage(SSRAM, DDR, plan.end, registers)
        emitter = Emitter(stage, decisions, cores=3)
        names = {name: plan.parameters[name] for name in shape.parameters}
        one = Attention(
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            dim=shape.dim,
            context=CONTEXT,
            k_cache=plan.caches["k_cache"],
            v_cache=plan.caches["v_cache"],
            cosines=plan.angles["angles"][0],
            sines=plan.angles["angles"][1],
            k_scales=plan.cache_scales.get("k_cache"),
            v_scales=plan.cache_scales.get("v_cache"),
            **names,
            **shape.options,
        )
        out = attend(emitter, one, Value(tokens, shape.width, "float32", self.qkv), "float32")
        size = tokens * shape.heads * shape.dim * 4
        stage.transfer("odma", out.block(0, tokens), At(plan.logits, 0, size))
        finished = stage.finish()
        tensors = []
        for one_tensor in plan.tensors:
            narrow = {"tokens": (tokens,), "logits": (size // 4,)}.get(one_tensor.name)
            update = {} if narrow is None else {"shape": narrow, "size": narrow[0] * 4}
            tensors.append(one_tensor.model_copy(update=update))
        program = Program(
            device="tiny", stage="prefill" if tokens > 1 else "decode", tokens=tokens, context=CONTEXT, rank=0,
            ranks=1, registers=registers, ddr_bytes=plan.end + finished.scratch_bytes,
            ssram_bytes=finished.ssram_bytes, tensors=tuple(tensors), kernels=stage.kernels, commands=finished.commands,
        )  # fmt: skip
        check_program(program, ssram_bytes=SSRAM, ddr_bytes=DDR)
        return program, stage.used

    def run(self, decisions: Decisions, qkv: Array, position: int) -> Array:
        """[tokens, heads * dim]."""
        tokens = len(qkv)
        if tokens not in self.dies:
            program, kernels = self.program(tokens, decisions)
            module = compile_kernels(kernels.values())
            self.dies[tokens] = program, Die(self.memory, {name: module[name] for name in kernels})
        program, die = self.dies[tokens]
        self.memory.ddr(self.qkv.offset, qkv.nbytes)[:] = np.ascontiguousarray(qkv).view(np.uint8).reshape(-1)
        inputs = {"tokens": np.zeros(tokens, np.int32)}
        return run_stage([die], [program], inputs, {"position": position, "row": 0}).reshape(tokens, -1)

    def cache(self, name: str) -> Array:
        one = next(one for one in self.plan.tensors if one.name == name)
        return self.memory.ddr(one.offset, one.size).view(one.dtype).reshape(one.shape).copy()


def angles(dim: int) -> tuple[Array, Array]:
    at = np.arange(CONTEXT)[:, None] / 100 ** (np.arange(dim // 2) / (dim // 2))
    table = np.concatenate([at, at], axis=1)
    return np.cos(table).astype(np.float32), np.sin(table).astype(np.float32)


CASES = [
    (Shape(4, 2, 16), CUT),
    (Shape(3, 1, 48, norms=True, offset=True), WIDE),
    (Shape(4, 2, 80, offset=True), CUT),
    (Shape(6, 3, 64, norms=True), CUT),
]


@pytest.mark.parametrize(("shape", "decisions"), CASES, ids=lambda one: str(one.dim) if isinstance(one, Shape) else "")
def test_prefill_and_decoding_as_the_reference(tmp_path: Path, shape: Shape, decisions: Decisions) -> None:
    rng = np.random.default_rng(shape.dim)
    program, caches = reference(shape)
    parameters = {name: 1 + rng.standard_normal(form).astype(np.float32) for name, form in shape.parameters.items()}
    cos, sin = angles(shape.dim)
    blocks = CONTEXT // 16
    stored = [tensor(np.zeros((1, shape.kv_heads, blocks, shape.dim + 4, 16), np.int8)) for _ in range(2)]
    simulated = Simulated(
        shape, caches, {**parameters, "angles.cosines": cos, "angles.sines": sin}, tmp_path / "mod.params"
    )
    compiled = Compiled(program)
    for first, count in ((0, PREFILL), (PREFILL, 1), (PREFILL + 1, 1), (47, 1), (CONTEXT - 1, 1), (5, 1)):
        qkv = rng.standard_normal((count, shape.width)).astype(np.float32)
        qkv[:, -1] += 50  # a feature that makes the others coarse
        at = np.arange(first, first + count, dtype=np.int32)
        where = at, np.zeros(count, np.int32), np.zeros((1, 1), np.int32)
        (wanted,) = compiled(qkv, *parameters.values(), cos[at], sin[at], *where, *stored)
        got = simulated.run(decisions, qkv, first)
        assert np.abs(got - wanted).max() < 2e-3 * np.abs(wanted).max()
    for name, whole, keys in zip(("k_cache", "v_cache"), stored, (True, False), strict=True):
        whole = whole.numpy()[0]  # [kv, blocks, dim + 4, 16]
        integers = whole[:, :, : shape.dim].reshape(shape.kv_heads, blocks, -1)
        ours = simulated.cache(name).reshape(integers.shape).astype(int)
        scales = np.ascontiguousarray(whole[:, :, shape.dim :]).view(np.float32).reshape(shape.kv_heads, CONTEXT)
        # Sums of a transform go in another order there, so a rounding may fall to the other side; of values none does.
        assert np.abs(ours - integers).max() <= keys
        assert (ours != integers).mean() < 0.01
        np.testing.assert_allclose(simulated.cache(f"{name}.scales"), scales, rtol=1e-6 if keys else 0)


def ddr_bytes(program: Program, engine: str) -> int:
    """Of what an engine moves."""
    moved = (command for command in program.commands if isinstance(command, Transfer) and command.engine == engine)
    return sum(command.source.bytes for command in moved)


def test_traffic_of_decoding_is_about_half(tmp_path: Path) -> None:
    read = {}
    for dtype in ("int8", "float16"):
        shape = Shape(6, 3, 64, dtype=dtype)
        caches = reference(shape)[1]
        tables = dict.fromkeys(("angles.cosines", "angles.sines"), np.zeros((CONTEXT, 64), np.float32))
        program, _ = Simulated(shape, caches, tables, tmp_path / dtype).program(1, WIDE)
        inputs = (shape.width + 2 * 64) * 4  # qkv and the angles
        read[dtype] = ddr_bytes(program, "idma") - inputs
        assert read[dtype] == 2 * 3 * CONTEXT * (64 + 4 if dtype == "int8" else 128)
    assert read["int8"] < 0.54 * read["float16"]
