"""shard-tensors: the step of a whole model becomes that of one of the dies that share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from tvm import relax

from vamc_py.dialect import LinearCall, all_gather, all_reduce, embedding, qkv_attention
from vamc_py.errors import UserError
from vamc_py.pipeline.base import Context, Pass, Stage
from vamc_py.pipeline.graph import Graph
from vamc_py.pipeline.matching import shape
from vamc_py.pipeline.program import Program, layout
from vamc_py.pipeline.shards import (
    column_shard,
    group_fault,
    head_fault,
    head_shard,
    vocabulary_shard,
    width_fault,
)
from vamc_py.weights.plan import Recipe, Rows, SelectColumns

_K_OFFSET = -8  # of qkv_attention's arguments, where it has one
_MATRICES = ("relax.vamc.linear", "relax.vamc.embedding")
_ATTENTIONS = tuple(f"relax.vamc.{name}" for name in ("qkv_attention", "cached_attention", "cache_append"))


@dataclass(frozen=True)
class ShardTensors(Pass):
    """Tensor parallelism: weights, heads and caches become those of the die ``rank`` of ``tp``, with collectives where
    the dies need each other's results.

    A merged projection into ``qkv_attention`` is split by heads, the one behind it by columns, then ``all_reduce`` adds
    the dies' results, and the residual once. The same around ``swiglu`` by columns of the feed-forward part. Tables are
    split by ids (``embedding`` and ``all_reduce``), the layer that makes the logits with them (``all_gather``); both
    are padded to a multiple of 16 ids on each die. More dies than KV heads have copies of them. ``align`` pads heads
    with zeros where they do not divide; without it that is refused. How a weight is rounded does not depend on ``tp``;
    activations in int8 do, since each die rounds the columns that it has. What is none of these stays whole on every
    die, and is noted.
    """

    tp: int = 2
    rank: int = 0
    align: bool = False

    name: ClassVar[str] = "shard-tensors"
    stage: ClassVar[Stage] = "rewrite"
    targets: ClassVar[tuple[str, ...]] = ("vacc", "cuda")
    after: ClassVar[tuple[str, ...]] = (
        "flatten-batch",
        "merge-linear",
        "fuse-swiglu",
        "fuse-residual",
        "fuse-prologue",
        "fuse-attention",
        "select-rows-early",
        "quantize-kv-cache",
        "keep-quantized",
        "quantize-int4",
        "quantize-int8",
        "quantize-activations",
        "cast-weights",
    )
    example: ClassVar[str] = """
@I.ir_module
class Module:
    @R.function
    def main(
        tokens: R.Tensor(("n",), "int32"),
        table: R.Tensor((96, 8), "float32"),
        norm: R.Tensor((8,), "float32"),
        gate_up: R.Tensor((64, 8), "float32"),
        down: R.Tensor((8, 32), "float32"),
    ):
        R.func_attr({"vamc.inputs": 1})
        with R.dataflow():
            x = R.vamc.embedding(tokens, table)
            merged = R.vamc.linear(x, gate_up, norm, bias=False, residual=False, prologue="rms_norm", epsilon=1e-6)
            hidden = R.vamc.linear(merged, down, x, bias=False, residual=True, prologue="swiglu")
            logits = R.vamc.linear(hidden, table, bias=False, residual=False)
            R.output(logits)
        return logits
"""

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.tp:
            raise ValueError(f"rank is a die's number from 0 to tp - 1, not {self.rank} of {self.tp}")

    def apply(self, program: Program, context: Context) -> Program:
        if self.tp == 1:
            return program
        one = _Rank(program, self)
        for var, call in one.graph.calls("relax.vamc.qkv_attention"):
            one.attention(var, call)
        for var, call in one.graph.calls("relax.vamc.linear"):
            one.feed_forward(var, LinearCall.of(call))
        one.vocabulary()
        return one.program().note(*one.notes())


class _Rank:
    """The program of one rank as it is made: changed calls in ``graph``, parameters of other shapes, their recipes."""

    def __init__(self, program: Program, options: ShardTensors) -> None:
        self.graph = Graph(program.function)
        self._whole = program
        self._options = options
        self._inputs, self._caches, self._weights = layout(program.function)
        self._parameters: dict[Any, Any] = {}  # by the parameter of the whole program
        self._recipes: dict[str, Recipe] = {}
        self._split: set[Any] = set()  # variables whose calls are split
        self._all = [var for name in (*_MATRICES, *_ATTENTIONS) for var, _ in self.graph.calls(name)]

    def attention(self, var: Any, call: Any) -> None:
        """The projection into heads, the attention and the projection back, where all three are there."""
        merged = self.graph.origin(call.args[0])
        back = self._reader(var)
        into, out = self._linear(merged), self._linear(back)
        offset = [call.args[_K_OFFSET]] if call.attrs.get("k_offset", False) else []
        if into is None or out is None or into.residual is not None or out.prologue != "none":
            return
        alone = all({*self.graph.users[one]} == {var} for one in (*call.args[-2:], *offset))
        if self._reader(merged) != var or not alone:
            return
        heads, kv_heads, dim = (int(call.attrs[name]) for name in ("heads", "kv_heads", "head_dim"))
        options = self._options
        _refuse(into.weight, head_fault(heads, kv_heads, options.tp, align=options.align))
        every = [head_shard(heads, kv_heads, options.tp, rank) for rank in range(options.tp)]
        shard = every[options.rank]
        q, kv = shard.queries.times(dim), shard.keys.times(dim)
        self._choose_rows(into, q, kv.behind(heads * dim), kv.behind((heads + kv_heads) * dim))
        self._choose_columns(out, [one.queries.times(dim) for one in every])
        for parameter in offset:
            self._rows_of(parameter, shard.keys, size=dim)
        for cache in call.args[-2:]:
            pages, _, *rest = shape(cache)
            self._parameters[cache] = _retyped(cache, [pages, shard.kv_heads, *rest])
        attributes = {**dict(call.attrs.items()), "heads": shard.heads, "kv_heads": shard.kv_heads}
        self.graph.replace(var, qkv_attention(*call.args, **attributes))
        self._reduce(back, out)
        self._split |= {merged, var, back}

    def feed_forward(self, var: Any, down: LinearCall) -> None:
        """A layer that reads the swiglu of a merged projection, and that projection."""
        if down.prologue != "swiglu":
            return
        merged = self._behind_selection(down.x)
        gate_up = self._linear(merged)
        if gate_up is None or gate_up.residual is not None or self._reader(merged) != var or self._linear(var) is None:
            return
        tp, columns = self._options.tp, int(shape(down.weight)[1])
        _refuse(down.weight, width_fault(columns, tp))
        every = [column_shard(columns, tp, rank) for rank in range(tp)]
        gate = every[self._options.rank]
        self._choose_rows(gate_up, gate, gate.behind(columns))
        self._choose_columns(down, every)
        self._reduce(var, down)
        self._split |= {merged, var}

    def vocabulary(self) -> None:
        """The tables of embeddings, and the layer that makes the logits."""
        head = self.graph.outputs()[0]
        layer = self._layer(head)
        if head in self._split or (layer is not None and layer.residual is not None):
            layer = None
        tables: dict[Any, list[Any]] = {}
        for var, call in self.graph.calls("relax.vamc.embedding"):
            tables.setdefault(call.args[1], []).append(var)
        if layer is not None:
            tables.setdefault(layer.weight, [])
        for table, lookups in tables.items():
            tied = layer is not None and layer.weight == table
            readers = {*lookups, *([head] if tied else [])}
            if not all(self._read_by(argument, readers) for one in readers for argument in self._own(one)):
                continue
            part = vocabulary_shard(int(shape(table)[0]), self._options.tp, self._options.rank)
            if lookups:
                self._look_up(lookups, part)
            if tied:
                assert layer is not None
                self._choose_rows(layer, part)
                self._gather(head, len(part), int(shape(table)[0]))
            self._split |= readers

    def _own(self, var: Any) -> list[Any]:
        """The parameters of a lookup or a linear layer that are split with its table."""
        call = self.graph.values[var]
        if self.graph.call(var, "relax.vamc.embedding") is not None:
            return list(call.args[1:])
        layer = LinearCall.of(call)
        return [one for one in (layer.weight, layer.scale, layer.zero, layer.bias) if one is not None]

    def _read_by(self, parameter: Any, readers: set[Any]) -> bool:
        return parameter in self._weights and readers.issuperset(self.graph.users[parameter])

    def _look_up(self, lookups: Sequence[Any], part: Rows) -> None:
        for var in lookups:
            ids, *parameters = self.graph.values[var].args
            for parameter in parameters:
                self._rows_of(parameter, part)
            mine = embedding(ids, *parameters, first=self._options.rank * len(part))
            self.graph.replace(var, all_reduce(self.graph.bind(mine, f"{var.name}_here"), ranks=self._options.tp))

    def _gather(self, var: Any, each: int, columns: int) -> None:
        tp = self._options.tp
        mine = self.graph.bind(self.graph.values[var], f"{var.name}_here")
        padded = {} if each * tp == columns else {"columns": columns}
        self.graph.replace(var, all_gather(mine, ranks=tp, **padded))

    def _reduce(self, var: Any, layer: LinearCall) -> None:
        """The result of ``layer`` is the sum of the dies', to which the residual comes once."""
        mine = self.graph.bind(replace(layer, residual=None).make(), f"{var.name}_here")
        residual = () if layer.residual is None else (layer.residual,)
        self.graph.replace(var, all_reduce(mine, *residual, ranks=self._options.tp))

    def _choose_rows(self, layer: LinearCall, *rows: Rows) -> None:
        for parameter in (layer.weight, layer.scale, layer.zero, layer.bias):
            if parameter is not None:
                self._rows_of(parameter, *rows)

    def _rows_of(self, parameter: Any, *rows: Rows, size: int = 1) -> None:
        """``size``: rows of the recipe's sources that make one of the parameter."""
        recipe = self._whole.plan[parameter.name].choosing(*(one.times(size) for one in rows))
        self._change(parameter, [sum(map(len, rows)), *shape(parameter)[1:]], recipe)

    def _choose_columns(self, layer: LinearCall, every: Sequence[Rows]) -> None:
        """The columns of this rank (``every``: of all), in values, scales and zero points; the bias on rank 0 alone."""
        columns = every[self._options.rank]
        self._columns_of(layer.weight, columns)
        if layer.group:
            _refuse(layer.weight, group_fault("the weight", list(every), int(shape(layer.weight)[1]), layer.group))
            groups = Rows(columns.start // layer.group, -(-columns.stop // layer.group), columns.zeros // layer.group)
            for parameter in (layer.scale, layer.zero):
                if parameter is not None:
                    self._columns_of(parameter, groups)
        if layer.bias is not None and self._options.rank:
            self._rows_of(layer.bias, Rows(0, 0, int(shape(layer.bias)[0])))

    def _columns_of(self, parameter: Any, columns: Rows) -> None:
        step = SelectColumns(columns.start, columns.stop, columns.zeros)
        recipe = self._whole.plan[parameter.name].then(step)
        self._change(parameter, [shape(parameter)[0], len(columns)], recipe)

    def _change(self, parameter: Any, dimensions: list[Any], recipe: Recipe) -> None:
        self._parameters[parameter] = _retyped(parameter, dimensions)
        self._recipes[parameter.name] = recipe

    def _layer(self, var: Any) -> LinearCall | None:
        call = None if var is None else self.graph.call(var, "relax.vamc.linear")
        return None if call is None else LinearCall.of(call)

    def _linear(self, var: Any) -> LinearCall | None:
        """The linear layer that defines ``var``, if its parameters are weights that nothing else reads."""
        layer = self._layer(var)
        return layer if layer and all(self._read_by(parameter, {var}) for parameter in self._own(var)) else None

    def _reader(self, var: Any) -> Any | None:
        """The one call that reads a value, or some rows of it; None where there are several."""
        user = self.graph.only_user(var)
        while user is not None and self.graph.call(user, "relax.vamc.select_rows") is not None:
            user = self.graph.only_user(user)
        return user

    def _behind_selection(self, expression: Any) -> Any:
        """The variable of which ``expression`` is some rows, or which it is."""
        var = self.graph.origin(expression)
        while (call := self.graph.call(var, "relax.vamc.select_rows")) is not None:
            var = self.graph.origin(call.args[0])
        return var

    def program(self) -> Program:
        """The program of the rank."""
        parameters = [self._parameters.get(old, old) for old in (*self._inputs, *self._caches, *self._weights)]
        function = self.graph.rebuild(parameters=parameters, substitute=self._parameters)
        return self._whole.with_function(function, plan=self._whole.plan.with_recipes(self._recipes))

    def notes(self) -> list[str]:
        """What every die does in whole."""
        names = [var.name for var in self._all if var not in self._split]
        if not names:
            return []
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        return [
            f"shard-tensors knows no way to split {len(names)} linear layers, tables or attentions ({shown}): "
            f"each of the {self._options.tp} dies does all of them"
        ]


def _retyped(parameter: Any, dimensions: list[Any]) -> Any:
    return relax.Var(parameter.name, relax.TensorType(dimensions, str(parameter.ty.dtype)))


def _refuse(weight: Any, fault: str | None) -> None:
    if fault is not None:
        raise UserError(f"shard-tensors: {weight.name}: {fault}")
