"""A step of one die becomes its runstream: each operator emitted in order, with decisions that fit the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from vamc_py.activation import columns_per_scale
from vamc_py.dialect.linear import LinearCall
from vamc_py.errors import UserError
from vamc_py.pipeline.graph import Graph, operator_name
from vamc_py.pipeline.program import layout
from vamc_py.runstream.program import DdrTensor, Program
from vamc_py.runstream.program import Stage as StageName
from vamc_py.schedules.vacc.emit.attention import Attention, attend
from vamc_py.schedules.vacc.emit.decisions import Decisions, series
from vamc_py.schedules.vacc.emit.embedding import Table, embed, select_row
from vamc_py.schedules.vacc.emit.emitter import Emitter
from vamc_py.schedules.vacc.emit.linear import Layer, project, project_gated, project_summed
from vamc_py.schedules.vacc.emit.memory_plan import DoesNotFitError
from vamc_py.schedules.vacc.emit.stage import At, Finished, Stage
from vamc_py.schedules.vacc.emit.values import Parameter, Value
from vamc_py.schedules.vacc.memory import DdrPlan
from vamc_py.schedules.vacc.parameters import is_gated

_LINEAR = "relax.vamc.linear"
_ALL_REDUCE = "relax.vamc.all_reduce"
_TRIED_LAYERS = 3


@dataclass(frozen=True)
class Figures:
    """What the emitters ask of the device."""

    name: str
    cores: int
    ssram_bytes: int
    ddr_bytes: int


@dataclass(frozen=True)
class Place:
    """Which die's program, and of which stage."""

    stage: StageName
    tokens: int
    context: int
    rank: int
    ranks: int


@dataclass(frozen=True)
class Written:
    """The program, and the kernels that its launches name."""

    program: Program
    kernels: Mapping[str, Any]
    """DeviceKernel by name."""
    decisions: Decisions


def write_step(function: Any, memory: DdrPlan, figures: Figures, place: Place) -> Written:
    """The runstream of `function`, the step of one die. UserError where no decisions make it fit, or for an operator
    that the device has no schedule for."""
    if memory.end > figures.ddr_bytes:
        raise UserError(
            f"a die's weights and caches take {memory.end} bytes, {figures.name} has {figures.ddr_bytes} of DDR: name "
            "a shorter context (frontend.shape.input_ids), more dies (model_kwargs.tp), narrower weights "
            "(backend.dtype, frontend.quantize) or another card"
        )
    short: DoesNotFitError | None = None
    for decisions in series(figures.ssram_bytes):
        try:
            # Layers are alike, so what does not fit shows in the first ones.
            _Step(function, memory, figures, place, decisions).write(layers=_TRIED_LAYERS)
            return _Step(function, memory, figures, place, decisions).write()
        except DoesNotFitError as fault:
            short = fault if short is None or fault.needed < short.needed else short
    assert short is not None
    raise UserError(
        f"{place.stage} of {place.tokens} tokens does not fit the memory of {figures.name} in any tiling: {short}; "
        "name a shorter prefill or context (frontend.shape.input_ids), more dies (model_kwargs.tp) or another card"
    )


class _Step:
    def __init__(self, function: Any, memory: DdrPlan, figures: Figures, place: Place, decisions: Decisions) -> None:
        self.graph = Graph(function)
        self.memory = memory
        self.figures = figures
        self.place = place
        self.decisions = decisions
        self.registers = {"position": place.context, "row": place.tokens}
        self.stage = Stage(figures.ssram_bytes, figures.ddr_bytes, memory.end, self.registers)
        self.e = Emitter(self.stage, decisions, cores=figures.cores)
        self.values: dict[Any, Value] = {}
        inputs, _, weights = layout(function)
        self.tokens, self.positions = inputs[0], inputs[1]
        self.weights = {var.name for var in weights}
        self.emitted: set[Any] = set()
        self.layers = 0  # attentions so far

    def write(self, layers: int | None = None) -> Written:
        """All of it, or what stands before attention number `layers`."""
        for var, value in self.graph.values.items():
            if operator_name(value) == "relax.vamc.qkv_attention" and self.layers == layers:
                break
            user = self.graph.values.get(self.graph.only_user(var))
            if user is not None and operator_name(user) == _ALL_REDUCE and self.graph.origin(user.args[0]) == var:
                continue  # what is summed is emitted together with the sum
            self._emit(var, value)
            self.emitted.add(var)
        else:
            self._logits()
        finished = self.stage.finish()
        return Written(self._program(finished), self.stage.used, self.decisions)

    def _emit(self, var: Any, value: Any) -> None:
        operator = operator_name(value)
        match operator:
            case "relax.vamc.linear":
                self._linear(var, value)
            case "relax.vamc.all_reduce":
                self._summed(var, value)
            case "relax.vamc.qkv_attention":
                self._attention(var, value)
            case "relax.vamc.embedding":
                self._embedding(var, value)
            case "relax.vamc.select_rows":
                with self.stage.label("select_rows"):
                    self.values[var] = select_row(self.e, self._value(value.args[0]))
            case "relax.vamc.all_gather":
                self.values[var] = self._gathered(value)
            case "relax.vamc.rotary_angles" | "":
                pass  # its tables are parameters; and fields of tuples
            case _:
                raise UserError(
                    f"the vacc target has no schedule for {operator.removeprefix('relax.')} ({var.name}); "
                    "`vamc-py compile --until select-rows-early` shows where it is left over"
                )

    def _value(self, expression: Any) -> Value:
        return self.values[self.graph.origin(expression)]

    def _last(self, expression: Any, user: Any) -> bool:
        """Whether nothing but `user` needs a value's place any more."""
        place = self._value(expression).place
        others = [var for var, value in self.values.items() if value.place is place]
        waiting = {one for var in others for one in self.graph.users[var]} - self.emitted - {user}
        read = LinearCall.of(self.graph.values[user]).x if operator_name(self.graph.values[user]) == _LINEAR else None
        if read is not None and self._value(read).place is place:
            return False
        return not waiting and not any(self.graph.is_result(var) for var in others)

    def _parameter(self, expression: Any) -> Parameter | None:
        return None if expression is None else self.memory.parameters[expression.name]

    def _layer(self, call: Any, rows: int) -> Layer:
        parts = LinearCall.of(call)
        columns, depth = (int(extent) for extent in parts.weight.ty.shape)
        weight = self._parameter(parts.weight)
        assert weight is not None
        group = columns_per_scale(parts.activation, depth) if rows > parts.wide_rows else None
        return Layer(
            weight=weight,
            columns=-(-columns // 16) * 16,
            depth=depth,
            bits=parts.bits,
            group=parts.group,
            scale=self._parameter(parts.scale),
            zero=self._parameter(parts.zero),
            bias=self._parameter(parts.bias),
            norm=self._parameter(parts.norm) if parts.prologue == "rms_norm" else None,
            epsilon=parts.epsilon,
            activation_group=group,
        )

    def _rows(self, expression: Any) -> int:
        """Rows of a value: 1 where it holds selected rows, else the tokens of the stage."""
        symbols = {str(extent) for extent in list(expression.ty.shape)[:-1]}
        return 1 if "m" in symbols else self.place.tokens

    def _linear(self, var: Any, call: Any) -> None:
        parts = LinearCall.of(call)
        x = self._value(parts.x)
        layer = self._layer(call, x.rows)
        following = self.graph.values.get(self.graph.only_user(var))
        with self.stage.label(_label(parts.weight.name)):
            if is_gated(self.graph, var):
                self.values[var] = project_gated(self.e, layer, x, self._layer(following, x.rows))
            else:
                residual = None if parts.residual is None else self._value(parts.residual)
                last = parts.residual is not None and self._last(parts.residual, var)
                self.values[var] = project(self.e, layer, x, residual=residual, in_place=last)

    def _summed(self, var: Any, call: Any) -> None:
        x, *residual = call.args
        part = self.graph.value(x)
        self.emitted.add(self.graph.origin(x))
        if operator_name(part) == "relax.vamc.embedding":
            assert not residual, "nothing is added to an embedding"
            self._embedding(var, part, summed=True)
            return
        assert operator_name(part) == _LINEAR, f"{operator_name(part)} is not summed over dies"
        parts = LinearCall.of(part)
        source = self._value(parts.x)
        with self.stage.label(_label(parts.weight.name)):
            term = self._value(residual[0]) if residual else None
            last = bool(residual) and self._last(residual[0], var)
            layer = self._layer(part, source.rows)
            self.values[var] = project_summed(self.e, layer, source, term, in_place=last)

    def _attention(self, var: Any, call: Any) -> None:
        attributes = call.attrs
        qkv, *norms, cos, sin, _positions, _slots, _pages, k_cache, v_cache = call.args
        dtypes = {str(cache.ty.dtype) for cache in (k_cache, v_cache)}
        if dtypes not in ({"float16"}, {"int8"}):
            raise UserError(f"the vacc target has KV caches of float16 or int8, not of {' and '.join(sorted(dtypes))}")
        offset = norms.pop() if attributes.get("k_offset", False) else None
        if offset is not None and dtypes == {"float16"}:
            raise UserError("the vacc target takes an offset from keys only where the KV cache is int8")
        tables = self.memory.angles[self._angles(cos)]
        assert self._angles(cos) == self._angles(sin)
        one = Attention(
            heads=int(attributes["heads"]),
            kv_heads=int(attributes["kv_heads"]),
            dim=int(attributes["head_dim"]),
            scale=float(attributes["scale"]),
            epsilon=float(attributes["epsilon"]),
            context=self.place.context,
            k_cache=self.memory.caches[k_cache.name],
            v_cache=self.memory.caches[v_cache.name],
            cosines=tables[0],
            sines=tables[1],
            q_norm=self._parameter(norms[0]) if norms else None,
            k_norm=self._parameter(norms[1]) if norms else None,
            k_offset=self._parameter(offset),
            k_scales=self.memory.cache_scales.get(k_cache.name),
            v_scales=self.memory.cache_scales.get(v_cache.name),
        )
        with self.stage.label(f"layers.{self.layers}.attention"):
            self.values[var] = attend(self.e, one, self._value(qkv), self._wanted(var))
        self.layers += 1

    def _angles(self, expression: Any) -> str:
        """The name of the rotary_angles whose field this is."""
        field = self.graph.value(expression)
        return str(self.graph.origin(field.tuple_value).name)

    def _wanted(self, var: Any) -> Literal["float32", "float16"]:
        """The type in which the users of an attention take it."""
        user = self.graph.only_user(var)
        while user is not None and operator_name(self.graph.values[user]) == "relax.vamc.select_rows":
            var, user = user, self.graph.only_user(user)
        call = self.graph.values.get(user)
        if operator_name(call) != _LINEAR:
            return "float32"
        return "float32" if self._layer(call, self._rows(var)).integers else "float16"

    def _embedding(self, var: Any, call: Any, *, summed: bool = False) -> None:
        ids, table, *scale = call.args
        if self.graph.origin(ids) != self.tokens:
            raise UserError("the vacc target embeds the tokens of the step alone")
        entries, features = (int(extent) for extent in table.ty.shape)
        values = self._parameter(table)
        assert values is not None
        one = Table(
            values,
            entries,
            features,
            panels=len(values.shape) == 3,
            scale=self._parameter(scale[0]) if scale else None,
            first=int(call.attrs.get("first", 0)) if call.attrs else 0,
        )
        with self.stage.label(_label(table.name)):
            self.values[var] = embed(self.e, one, self.memory.tokens, self.place.tokens, summed=summed)

    def _gathered(self, call: Any) -> Value:
        part = self._value(call.args[0])
        assert part.rows == 1
        ranks = int(call.attrs["ranks"])
        with self.stage.label("all_gather"):
            out = self.e.value("gathered", 1, part.columns * ranks, part.dtype)
            self.stage.collective("all_gather", "float32", part.block(0, 1), out.block(0, 1))
        return out

    def _logits(self) -> None:
        logits = self._value(self.graph.outputs()[0])
        assert (logits.rows, logits.dtype) == (1, "float32")
        with self.stage.label("logits"):
            size = self.memory.logits.bytes
            self.stage.transfer("odma", At(logits.place, 0, size), At(self.memory.logits))

    def _program(self, finished: Finished) -> Program:
        scratch = DdrTensor(
            name="scratch", role="scratch", dtype="uint8", shape=(finished.scratch_bytes,),
            offset=self.memory.end, size=finished.scratch_bytes,
        )  # fmt: skip
        return Program(
            device=self.figures.name,
            stage=self.place.stage,
            tokens=self.place.tokens,
            context=self.place.context,
            rank=self.place.rank,
            ranks=self.place.ranks,
            registers=self.registers,
            ddr_bytes=self.memory.end + finished.scratch_bytes,
            ssram_bytes=finished.ssram_bytes,
            tensors=(
                *(self._of_stage(tensor) for tensor in self.memory.tensors),
                *((scratch,) if finished.scratch_bytes else ()),
            ),
            kernels=self.stage.kernels,
            commands=finished.commands,
        )

    def _of_stage(self, tensor: DdrTensor) -> DdrTensor:
        """The tokens of decoding are the first of those of a prefill."""
        if tensor.role != "input":
            return tensor
        tokens = self.place.tokens
        return tensor.model_copy(update={"shape": (tokens,), "size": 4 * tokens})


def _label(name: str) -> str:
    """A short name of an operator: ``layers.3.mlp.down_proj``."""
    return name.removeprefix("model.").removesuffix(".weight")
