"""Matrix products: macro tiles of C over the cores, each a use of the matrix unit (or one a group of k) and a drain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from tvm.script import tirx as T

from vamc_py.schedules.vacc.intrinsics import Operands, drain, mma, rounded_to
from vamc_py.schedules.vacc.kernel import Buffer, DeviceKernel, define, factory, symbol
from vamc_py.schedules.vacc.loops import LANES, Expr, bound, minimum, scratch, serial, share


@dataclass(frozen=True)
class GemmTile:
    """Most rows and columns of C that a core sums at a time: what its accumulators hold, in multiples of 16."""

    m: int = 64
    n: int = 64

    def __post_init__(self) -> None:
        if min(self.m, self.n) < LANES or self.m % LANES or self.n % LANES:
            raise ValueError(f"{self} is no tile of the matrix unit: m and n are multiples of {LANES}")


@dataclass(frozen=True)
class CoreGrid:
    """How C is cut over the cores: `rows` parts of blocks of 16 rows, `columns` parts of panels of 16 columns."""

    rows: int
    columns: int


def core_grid(m: int, n: int, cores: int) -> CoreGrid:
    """The grid of all cores whose largest part of C [m, n] has the fewest 16 x 16 tiles.

    Among equals the one with the most parts along n, where a core reads the fewest weights.
    """

    def largest(columns: int) -> int:
        return -(-_blocks(m) // (cores // columns)) * -(-_blocks(n) // columns)

    widths = [columns for columns in range(cores, 0, -1) if cores % columns == 0]
    columns = min(widths, key=largest)
    return CoreGrid(cores // columns, columns)


def _blocks(size: int) -> int:
    return -(-size // LANES)


@dataclass(frozen=True)
class _Shape:
    """The sizes of a product, and where its elements are."""

    m: int
    n: int
    k: int
    a_stride: int
    b: Literal["panels", "rows"]
    b_stride: int
    c_stride: int
    c_block: tuple[int, int] | None

    def a_at(self, row: Expr, k: Expr) -> Expr:
        return row * self.a_stride + k

    def b_at(self, panel: Expr, k: Expr, lane: Expr) -> Expr:
        if self.b == "rows":
            return k * self.b_stride + panel * LANES + lane
        return (panel * self.k + k) * LANES + lane

    def c_at(self, row: Expr, column: Expr) -> Expr:
        if self.c_block is None:
            return row * self.c_stride + column
        inner, outer = self.c_block
        return row // inner * outer + row % inner * self.c_stride + column

    @property
    def a_elements(self) -> int:
        return int(self.a_at(self.m - 1, self.k - 1)) + 1

    @property
    def b_elements(self) -> int:
        return int(self.b_at(self.n // LANES - 1, self.k - 1, LANES - 1)) + 1

    @property
    def c_elements(self) -> int:
        return max((int(self.c_at(row, self.n - 1)) for row in range(self.m)), default=-1) + 1


@dataclass(frozen=True)
class _Epilogue:
    """What happens to a sum on its way out: [* scale] [* alpha] [+ bias] [+ residual], each step rounded to float32."""

    scale: Any
    alpha: float
    bias: Any
    residual: Any

    def __call__(self, value: Expr, column: Expr, place: Expr) -> Expr:
        if self.scale is not None:
            value = value * self.scale[column]
        if self.alpha != 1.0:
            value = value * T.float32(self.alpha)
        if self.bias is not None:
            value = value + self.bias[column]
        return value if self.residual is None else value + self.residual[place]


@factory
def gemm(
    m: int,
    n: int,
    k: int,
    *,
    dtype: Literal["f16", "i8"],
    a_stride: int | None = None,
    b: Literal["panels", "rows"] = "panels",
    b_stride: int = 0,
    c_stride: int | None = None,
    c_block: tuple[int, int] | None = None,
    out: Literal["float32", "float16"] = "float32",
    scale: bool = False,
    alpha: float = 1.0,
    bias: bool = False,
    residual: bool | Literal["in place"] = False,
    group: int = 0,
    cores: int,
    tile: GemmTile | None = None,
) -> DeviceKernel:
    """C [m, n] = A [m, k] times B [k, n], float16 ("f16") or int8 ("i8"); all strides are in elements.

    Arguments, those in brackets where they are asked for: a, b, [row_scale f32 [m, ceil(k / group)], of int8 always],
    [scale f32 [n]], [bias f32 [n]], [residual f32, where c is], c of the type `out`.

    A (row, k) is at row * a_stride + k (None: k). B is in panels, (k, column) at
    (column // 16 * k_total + k) * 16 + column % 16, or, "rows", at k * b_stride + column. C (row, column) is at
    row * c_stride + column (None: n), or with `c_block` (rows_inner, stride_outer) at
    row // rows_inner * stride_outer + row % rows_inner * c_stride + column.

    float16: sums are float32, in ascending k, from 0. int8: the exact int32 sum of each `group` columns of k (0: all of
    them; the last may be shorter), as float32, times its row scale; these added up in float32 in ascending groups, from
    0. Then ``* scale``, ``* alpha``, ``+ bias``, ``+ residual``, each rounded to float32; float16 saturates at ±65504.
    `residual` "in place" is what c holds before, float32, without an argument of its own.

    ValueError where n is no multiple of 16 or a stride is too short.
    """
    tile = tile or GemmTile()
    shape = _Shape(m, n, k, a_stride or k, b, b_stride, c_stride or n, c_block)
    _check(shape, dtype, group)
    if residual == "in place" and out != "float32":
        raise ValueError(f"a residual in place is float32, not {out}")
    group = min(group or k, k) if dtype == "i8" else 0
    groups = -(-k // group) if group else 1
    stored = "float16" if dtype == "f16" else "int8"
    grid = core_grid(m, n, cores)

    def emit(core: Expr, a: Any, b: Any, *rest: Any) -> None:
        given = iter(rest)
        row_scale = next(given) if dtype == "i8" else None
        epilogue = _Epilogue(
            scale=next(given) if scale else None,
            alpha=alpha,
            bias=next(given) if bias else None,
            residual=next(given) if residual is True else None,
        )
        c = next(given)
        if residual == "in place":
            epilogue = replace(epilogue, residual=c)

        def store(value: Expr, row: Expr, column: Expr) -> None:
            place = shape.c_at(row, column)
            T.buffer_store(c, rounded_to(epilogue(value, column, place), out), [place])

        def part(row: Expr, rows: Expr, panel: Expr, panels: Expr) -> None:
            product = _Part(shape, a, b, row, rows, panel, panels)
            if row_scale is None:
                _float_tile(product, tile, store)
            else:
                _integer_tile(product, tile, group, row_scale, store)

        _each_tile(m, n, grid, core, tile, part)

    buffers = [
        Buffer("a", stored, shape.a_elements),
        Buffer("b", stored, shape.b_elements),
        *([Buffer("row_scale", "float32", m * groups)] if dtype == "i8" else []),
        *([Buffer("scale", "float32", n)] if scale else []),
        *([Buffer("bias", "float32", n)] if bias else []),
        *([Buffer("residual", "float32", shape.c_elements)] if residual is True else []),
        Buffer("c", out, shape.c_elements, "update" if residual == "in place" else "write"),
    ]
    name = symbol(
        f"gemm_{dtype}",
        m=m,
        n=n,
        k=k,
        a=a_stride,
        rows=b_stride if b == "rows" else None,
        c=c_stride,
        block=c_block,
        out=out,
        scale=scale,
        alpha=None if alpha == 1.0 else float(alpha),
        bias=bias,
        residual="own" if residual == "in place" else residual,
        group=group or None,
        cores=cores,
        tile=None if tile == GemmTile() else (tile.m, tile.n),
    )
    return define(name, "matrix", buffers, cores, emit)


def _check(shape: _Shape, dtype: str, group: int) -> None:
    if shape.n % LANES:
        raise ValueError(f"a product has {LANES} columns to a panel; {shape.n} is no multiple of that")
    if dtype == "f16" and group:
        raise ValueError("only int8 products have groups of columns")
    if shape.a_stride < shape.k:
        raise ValueError(f"rows of a of {shape.k} elements do not lie {shape.a_stride} apart")
    if shape.b == "rows" and shape.b_stride < shape.n:
        raise ValueError(f"rows of b of {shape.n} elements do not lie {shape.b_stride} apart")
    if shape.c_stride < shape.n and shape.m > 1:
        raise ValueError(f"rows of c of {shape.n} elements do not lie {shape.c_stride} apart")


def _each_tile(
    m: int, n: int, grid: CoreGrid, core: Expr, tile: GemmTile, part: Callable[[Expr, Expr, Expr, Expr], None]
) -> None:
    """Emit ``part(first row, rows, first panel, panels)`` for each macro tile of a core."""
    first_row, rows = share(m, core // grid.columns, grid.rows, LANES)
    first_panel, panels = share(n // LANES, core % grid.columns, grid.columns)
    width = tile.n // LANES
    with (
        serial((rows + tile.m - 1) // tile.m, "row_tile") as i,
        serial((panels + width - 1) // width, "column_tile") as j,
    ):
        part(
            bound("row", first_row + i * tile.m),
            bound("rows", minimum(tile.m, rows - i * tile.m)),
            bound("panel", first_panel + j * width),
            bound("panels", minimum(width, panels - j * width)),
        )


@dataclass(frozen=True)
class _Part:
    """A macro tile of C: `rows` rows from `row` on, `panels` panels from `panel` on."""

    shape: _Shape
    a: Any
    b: Any
    row: Expr
    rows: Expr
    panel: Expr
    panels: Expr

    def operands(self, dtype: Literal["f16", "i8"], first: Expr, count: Expr) -> Operands:
        """What the matrix unit multiplies for it, of `count` columns of k from `first` on."""
        at = self.shape
        return Operands(
            dtype,
            self.rows,
            self.panels,
            count,
            lambda row, k: self.a[at.a_at(self.row + row, first + k)],
            lambda panel, k, lane: self.b[at.b_at(self.panel + panel, first + k, lane)],
        )


Store = Callable[[Expr, Expr, Expr], None]
"""(sum in float32, row, column of C) -> emits what puts it there."""


def _float_tile(part: _Part, tile: GemmTile, store: Store) -> None:
    most_rows = min(tile.m, part.shape.m)
    sums = scratch(most_rows * tile.n, "float32", "sums")
    mma(part.operands("f16", 0, part.shape.k), sums, tile.n, most_rows)

    def out(row: Expr, panel: Expr, lane: Expr) -> None:
        value = sums[row * tile.n + panel * LANES + lane]
        store(value, part.row + row, (part.panel + panel) * LANES + lane)

    drain(part.rows, part.panels, out)


def _integer_tile(part: _Part, tile: GemmTile, group: int, row_scale: Any, store: Store) -> None:
    """A use of the matrix unit and a drain for each group; the drain of the last one gives C."""
    shape = part.shape
    groups = -(-shape.k // group)
    most_rows = min(tile.m, shape.m)
    sums = scratch(most_rows * tile.n, "int32", "sums")
    total = scratch(most_rows * tile.n, "float32", "total")

    def one(index: Expr, last: bool) -> None:
        first = index * group
        mma(part.operands("i8", first, shape.k - first if last else group), sums, tile.n, most_rows)

        def out(row: Expr, panel: Expr, lane: Expr) -> None:
            place = row * tile.n + panel * LANES + lane
            value = T.cast(sums[place], "float32") * row_scale[(part.row + row) * groups + index]
            if groups > 1:
                value = T.Select(index == 0, T.float32(0), total[place]) + value
            if last:
                store(value, part.row + row, (part.panel + panel) * LANES + lane)
            else:
                T.buffer_store(total, value, [place])

        drain(part.rows, part.panels, out)

    if groups > 1:
        with serial(groups - 1, "group") as index:
            one(index, last=False)
    one(groups - 1, last=True)
