"""Small steps of one operator, written for a made device, run on simulated dies, and by the operators' references."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.compile_together import compile_together
from support.relax_modules import tensor
from tvm import relax, tirx

from vamc_py import dialect
from vamc_py.checkpoint.base import TensorInfo
from vamc_py.passes.shard_tensors import ShardTensors
from vamc_py.pipeline.base import Context
from vamc_py.pipeline.program import Program
from vamc_py.pipeline.runner import Planned
from vamc_py.runstream.check import check_group, check_program, check_stages
from vamc_py.runstream.execute import Die, run_stage
from vamc_py.runstream.memory import DieMemory
from vamc_py.runstream.program import Stage
from vamc_py.schedules.vacc.emit import decisions
from vamc_py.schedules.vacc.emit import step as emit_step
from vamc_py.schedules.vacc.emit.step import Figures
from vamc_py.schedules.vacc.host import compile_kernels
from vamc_py.schedules.vacc.kernel import DeviceKernel
from vamc_py.target.description import device_host
from vamc_py.vacc.dies import Die as WrittenDie
from vamc_py.vacc.dies import write_dies
from vamc_py.vacc.parameters import write_die_parameters
from vamc_py.weights.plan import ParameterPlan, Recipe

Array = np.ndarray[Any, Any]
PREFILL, CONTEXT = 32, 64
INPUTS = ("tokens", "positions", "slots", "rows", "pages")


def variable(name: str, *shape: Any, dtype: str = "float32") -> Any:
    return relax.Var(name, relax.TensorType(list(shape), dtype))


@dataclass
class Step:
    """A function ``step`` of tokens, caches and weights, and values for the weights."""

    program: Program
    weights: Mapping[str, Array]
    caches: Sequence[tuple[int, int]]
    columns: int

    @classmethod
    def of(
        cls,
        emit: Callable[[SimpleNamespace], Any],
        weights: Mapping[str, Array],
        *,
        caches: Sequence[tuple[int, int]] = (),
    ) -> Step:
        """``emit`` gives the expression of the result [n or m, columns] from the variables: inputs, weights by name,
        k0, v0, k1, … for the (kv heads, dim) of ``caches``; and ``n``, the rows of the result if it has all."""
        symbols = {name: tirx.Var(name, "int64") for name in ("n", "m", "s", "p", "pages_total", "blocks")}
        n, m = symbols["n"], symbols["m"]
        inputs = [
            variable(
                name,
                *((symbols["s"], symbols["p"]) if name == "pages" else (m if name == "rows" else n,)),
                dtype="int32",
            )
            for name in INPUTS
        ]
        stored = [
            variable(
                f"{name}{index}",
                symbols["pages_total"],
                kv,
                symbols["blocks"],
                *((dim, 16) if name == "k" else (16, dim)),
                dtype="float16",
            )
            for index, (kv, dim) in enumerate(caches)
            for name in "kv"
        ]
        own = [variable(name, *value.shape, dtype=value.dtype.name) for name, value in weights.items()]
        builder = relax.BlockBuilder()
        attributes = {"vamc.inputs": len(inputs), "vamc.caches": len(stored)}
        with builder.function("step", [*inputs, *stored, *own], attrs=attributes):
            with builder.dataflow():
                given = SimpleNamespace(**{v.name: v for v in (*inputs, *stored, *own)}, bind=builder.emit)
                result = builder.emit(emit(given))
                if "n" in {str(extent) for extent in result.ty.shape}:
                    result = builder.emit(dialect.select_rows(result, given.rows))
                output = builder.emit_output(result)
            builder.emit_func_output(output)
        plan = ParameterPlan({name: Recipe((name,)) for name in weights})
        return cls(Program(builder.get(), plan), weights, caches, int(output.ty.shape[1]))

    def written(self, *, ssram: int = 1 << 20, cores: int = 2, ranks: int = 1, ddr: int = 1 << 26) -> list[WrittenDie]:
        """The programs of all dies of a made device."""
        context = Context(device_host("fp16"), PREFILL, CONTEXT)
        pipeline = [Planned(ShardTensors(tp=ranks), "shard-tensors", "tests")]
        figures = Figures("made", cores, ssram, ddr)
        return write_dies(self.program, pipeline, context, figures, ranks=ranks, vocabulary=self.columns)

    def emitted(self, folder: Path, *, ssram: int = 1 << 20, cores: int = 2, ranks: int = 1) -> Emitted:
        """The programs on simulated dies; ``folder`` is for their parameters."""
        return Emitted(self, folder, self.written(ssram=ssram, cores=cores, ranks=ranks), ssram)


class Reference:
    """A step by the operators' reference lowerings."""

    def __init__(self, step: Step, run: Callable[..., list[Array]]) -> None:
        self._run = run
        self._weights = list(step.weights.values())
        self._shapes = [
            (1, kv, CONTEXT // 16, *((dim, 16) if name == "k" else (16, dim)))
            for kv, dim in step.caches
            for name in "kv"
        ]
        self.forget()

    def forget(self) -> None:
        """Empty the caches."""
        self._caches = [tensor(np.zeros(shape, np.float16)) for shape in self._shapes]

    def __call__(self, tokens: Sequence[int], start: int) -> Array:
        """The results [n, columns] of all tokens, at the positions from ``start`` on."""
        count = len(tokens)
        integers = [
            np.asarray(tokens),
            np.arange(count) + start,
            np.zeros(count),
            np.arange(count),
            np.zeros((1, 1)),
        ]
        return self._run(*(one.astype(np.int32) for one in integers), *self._caches, *self._weights)[0]


def references(steps: Sequence[Step]) -> list[Reference]:
    """The references of many steps, which are compiled together."""
    runs = compile_together([step.program for step in steps])
    return [Reference(step, run) for step, run in zip(steps, runs, strict=True)]


class Weights:
    """As much of a checkpoint as a parameter plan reads."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        self._weights = weights
        self.tensors = {name: TensorInfo(name, one.shape, one.dtype.name) for name, one in weights.items()}
        self.quantized: dict[str, Any] = {}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        return self._weights[name][start:stop]


class Emitted:
    """The step's programs of all ranks, proven safe, on simulated dies."""

    def __init__(self, step: Step, folder: Path, written: list[WrittenDie], ssram: int) -> None:
        self.written = written
        folder.mkdir(parents=True, exist_ok=True)
        self._dies: dict[Stage, list[Die]] = {"prefill": [], "decode": []}
        for die in self.written:
            path = folder / f"mod.params{die.rank}"
            write_die_parameters(die, Weights(step.weights), path, CONTEXT)  # type: ignore[arg-type]
            programs = [written.program for written in die.stages.values()]
            for program in programs:
                check_program(program, ssram_bytes=ssram, ddr_bytes=1 << 26)
            check_stages(programs)
            size = max(program.ddr_bytes for program in programs)
            memory = DieMemory(path, ddr_bytes=size, ssram_bytes=ssram)
            for stage in self._dies:
                self._dies[stage].append(Die(memory, {}))
        kernels = {
            name: one for die in self.written for part in die.stages.values() for name, one in part.kernels.items()
        }
        functions = compiled(kernels)
        for stage, dies in self._dies.items():
            check_group({die.rank: die.stages[stage].program for die in self.written})
            for one in dies:
                one.kernels = functions

    def prefill(self, tokens: Sequence[int]) -> Array:
        """The results [PREFILL, columns] of so many tokens from position 0 on."""
        return np.stack([self._run("prefill", tokens, 0, row) for row in range(PREFILL)])

    def decode(self, token: int, position: int) -> Array:
        """The results [columns] of one token."""
        return self._run("decode", [token], position, 0)

    def _run(self, stage: Stage, tokens: Sequence[int], position: int, row: int) -> Array:
        programs = [die.stages[stage].program for die in self.written]
        inputs = {"tokens": np.asarray(tokens, np.int32)}
        return run_stage(self._dies[stage], programs, inputs, {"position": position, "row": row})


def worst_of(got: Array, expected: Array, most: float) -> float:
    """The largest difference over the largest value of its row, which must be less than ``most``."""
    error = float((np.abs(got - expected).max(-1) / np.abs(expected).max(-1)).max())
    assert error < most
    return error


def use_least_decisions(patch: pytest.MonkeyPatch) -> None:
    """Write steps with the least that a schedule can decide: nothing stays in SSRAM, and tiles are the narrowest."""
    *_, least = decisions.series(1)
    patch.setattr(emit_step, "series", lambda _: iter([least]))


_COMPILED: dict[str, Any] = {}


def compiled(kernels: Mapping[str, DeviceKernel]) -> Mapping[str, Any]:
    """The host functions of kernels; each is compiled once a process."""
    new = {name: kernel for name, kernel in kernels.items() if name not in _COMPILED}
    if new:
        module = compile_kernels(new.values())
        _COMPILED.update({name: module[name] for name in new})
    return _COMPILED


def uses(emitted: Emitted, stage: Stage) -> set[str]:
    """Which products the matrix units compute."""
    works = (
        work.intrinsic
        for die in emitted.written
        for kernel in die.stages[stage].program.kernels.values()
        for core in kernel.work
        for work in core
    )
    return {work for work in works if work.startswith("mma")}
