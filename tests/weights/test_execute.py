"""The plan's executor: streamed in blocks it writes what doing it whole gives, or nothing usable."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vamc_py.artifact.manifest import PARAMETER_ALIGNMENT, Parameter
from vamc_py.errors import CheckpointError
from vamc_py.schedules.llvm.layout import pack_rows
from vamc_py.schedules.llvm.select import PackPanels
from vamc_py.weights import execute
from vamc_py.weights.execute import Expected, write_parameters
from vamc_py.weights.plan import Array, Cast, ParameterPlan, QuantizeRows, Recipe, Rows, SelectColumns, numpy_dtype

CHAINS: dict[str, tuple[Any, ...]] = {
    "as it is": (),
    "float32": (Cast("float32"),),
    "float16": (Cast("float16"),),
    "bfloat16": (Cast("bfloat16"),),
    "int8": (Cast("float32"), QuantizeRows("values")),
    "scale": (Cast("float32"), QuantizeRows("scale")),
    "packed int8": (Cast("float32"), QuantizeRows("values"), PackPanels()),
    "packed float16": (Cast("float16"), PackPanels()),
    "packed bfloat16": (Cast("bfloat16"), PackPanels()),
}


@dataclass
class Source:
    """Tensors in memory that are read row by row, as a checkpoint's; remembers how many elements each read gave."""

    tensors: dict[str, Array]
    reads: list[int] = field(default_factory=list)

    @property
    def shapes(self) -> dict[str, Sequence[int]]:
        return {name: tensor.shape for name, tensor in self.tensors.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Array:
        block = self.tensors[name][start:stop]
        self.reads.append(block.size)
        return block


def whole(recipe: Recipe, source: Source) -> Array:
    """The parameter made in one piece."""
    tensors = [source.tensors[name] for name in recipe.sources]
    same = len({tensor.dtype for tensor in tensors}) == 1
    block = np.concatenate(tensors if same else [tensor.astype(np.float32) for tensor in tensors])
    if recipe.rows is not None:
        zeros = np.zeros_like(block[:1])
        block = np.concatenate(
            [part for one in recipe.rows for part in (block[one.start : one.stop], *[zeros] * one.zeros)]
        )
    for step in recipe.steps:
        block = step.apply(block)
    return block


def write(
    path: Path, recipes: Mapping[str, Recipe], source: Source, expected: Mapping[str, Expected] | None = None
) -> tuple[list[Parameter], str]:
    plan = ParameterPlan(recipes)
    if expected is None:
        made = {name: whole(recipe, source) for name, recipe in recipes.items()}
        expected = {name: Expected(array.shape, array.dtype.name) for name, array in made.items()}
    return write_parameters(plan, expected, source, source.shapes, path)


def read_back(path: Path, one: Parameter) -> Array:
    dtype = numpy_dtype(one.dtype)
    count = int(np.prod(one.shape, dtype=np.int64))
    return np.fromfile(path, dtype, count=count, offset=one.offset).reshape(one.shape)


@st.composite
def chosen_rows(draw: st.DrawFn, count: int, multiple: int) -> list[Rows]:
    """Parts of so many rows, some empty but not all, some of them zeros; each begins and ends at a multiple."""
    most = count // multiple
    parts = [Rows(0, 0, draw(st.integers(1, 3))).times(multiple)]
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, most))
        stop = draw(st.integers(start, most))
        parts.append(Rows(start, stop, draw(st.integers(0, 200 // multiple))).times(multiple))
    return parts


@st.composite
def plans(draw: st.DrawFn) -> tuple[Source, dict[str, Recipe]]:
    """One to three parameters of one to three sources each, all of the width of their parameter."""
    tensors: dict[str, Array] = {}
    recipes: dict[str, Recipe] = {}
    for index in range(draw(st.integers(1, 3))):
        width = draw(st.integers(1, 11))
        names = tuple(f"source.{index}.{part}" for part in range(draw(st.integers(1, 3))))
        chain = draw(st.sampled_from(sorted(CHAINS)))
        # Only a cast makes one type of what a checkpoint stores in several.
        stored_as = st.just("bfloat16") if chain == "as it is" else st.sampled_from(["float32", "float16", "bfloat16"])
        for name in names:
            rng = np.random.default_rng(draw(st.integers(0, 99)))
            stored = draw(stored_as)
            tensors[name] = rng.standard_normal((draw(st.integers(1, 150)), width)).astype(numpy_dtype(stored))
        recipe = Recipe(names, CHAINS[chain])
        if draw(st.booleans()):
            recipe = recipe.choosing(
                *draw(chosen_rows(sum(len(tensors[name]) for name in names), recipe.rows_multiple))
            )
        if "packed" not in chain and chain != "scale" and draw(st.booleans()):
            start = draw(st.integers(0, width))
            recipe = recipe.then(SelectColumns(start, draw(st.integers(start, width)), draw(st.integers(0, 3))))
        recipes[f"parameter.{index}"] = recipe
    return Source(tensors), recipes


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans(), block=st.sampled_from([1, 7, 64, 500, 1 << 20]))
def test_in_blocks_as_in_one_piece(
    plan: tuple[Source, dict[str, Recipe]], block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, recipes = plan
    monkeypatch.setattr(execute, "BLOCK_ELEMENTS", block)
    path = tmp_path / "params.bin"
    table, digest = write(path, recipes, source)
    data = path.read_bytes()
    assert digest == hashlib.sha256(data).hexdigest()
    assert [one.name for one in table] == list(recipes)
    end = 0
    for one, recipe in zip(table, recipes.values(), strict=True):
        want = whole(recipe, source)
        assert read_back(path, one).tobytes() == want.tobytes()
        assert one.offset % PARAMETER_ALIGNMENT == 0
        assert data[end : one.offset] == bytes(one.offset - end)
        assert one.size == want.nbytes
        assert one.sha256 == hashlib.sha256(want.tobytes()).hexdigest()
        end = one.offset + one.size
    assert len(data) == end


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.integers(1, 300), min_size=1, max_size=3), block=st.integers(100, 2000), packed=st.booleans())
def test_no_more_is_in_memory_than_a_block(
    rows: list[int], block: int, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    width = 5
    source = Source({f"t{i}": np.ones((count, width), np.float32) for i, count in enumerate(rows)})
    seen: list[int] = []

    @dataclass(frozen=True)
    class Watch:
        rows_multiple: int = 64 if packed else 1

        def apply(self, one: Array) -> Array:
            seen.append(one.size)
            return one

    monkeypatch.setattr(execute, "BLOCK_ELEMENTS", block)
    write_parameters(
        ParameterPlan({"p": Recipe(tuple(source.tensors), (Watch(),))}),
        {"p": Expected((sum(rows), width), "float32")},
        source,
        source.shapes,
        tmp_path / "params.bin",
    )
    largest = max(block, 64 * width) if packed else block  # a packed panel is not divided
    assert max(seen) <= largest
    assert max(source.reads) <= largest
    assert sum(seen) == sum(source.reads) == sum(rows) * width
    assert all(size % (64 * width) == 0 for size in seen[:-1]) or not packed


def test_merged_sources_of_different_heights_lie_in_order_across_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heights = {"q": 130, "k": 1, "v": 61}
    tensors: dict[str, Array] = {
        name: np.random.default_rng(i).standard_normal((count, 4), np.float32)
        for i, (name, count) in enumerate(heights.items())
    }
    source = Source(tensors)
    monkeypatch.setattr(execute, "BLOCK_ELEMENTS", 64 * 4)
    path = tmp_path / "params.bin"
    [one], _ = write(path, {"qkv": Recipe(("q", "k", "v"), (Cast("float32"), PackPanels()))}, source)
    assert one.shape == (3, 4, 64)
    np.testing.assert_array_equal(read_back(path, one), pack_rows(np.concatenate(list(tensors.values()))))


def test_rows_are_chosen_over_the_borders_of_sources_and_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source({"q": np.arange(1, 7, dtype=np.float32).reshape(6, 1), "k": np.array([[7], [8]], np.float32)})
    monkeypatch.setattr(execute, "BLOCK_ELEMENTS", 2)
    rows = (Rows(4, 7), Rows(0, 0, 3), Rows(1, 2, 1), Rows(4, 5))
    [one], _ = write(tmp_path / "p", {"w": Recipe(("q", "k")).choosing(*rows)}, source)
    np.testing.assert_array_equal(read_back(tmp_path / "p", one)[:, 0], [5, 6, 7, 0, 0, 0, 2, 0, 5])
    assert max(source.reads) <= 2


def test_whole_rows_are_quantized_before_columns_are_chosen(tmp_path: Path) -> None:
    weights = np.array([[127, 1, -2, 4], [1, 2, 3, 254]], np.float32)
    steps = (QuantizeRows("values"), SelectColumns(1, 3, 1))
    [one], _ = write(tmp_path / "p", {"w": Recipe(("w",), steps)}, Source({"w": weights}))
    np.testing.assert_array_equal(read_back(tmp_path / "p", one), [[1, -2, 0], [1, 2, 0]])


def test_a_fault_in_chosen_rows_names_rows_of_the_checkpoint(tmp_path: Path) -> None:
    weights = np.ones((9, 2), np.float32)
    weights[7, 1] = np.inf
    recipe = Recipe(("w",)).choosing(Rows(6, 8), Rows(0, 1))
    with pytest.raises(CheckpointError, match=r"w: rows 6 to 7 and 0 to 0 hold values that are not finite"):
        write(tmp_path / "p", {"w": recipe}, Source({"w": weights}))


def test_rows_that_the_sources_do_not_have_are_a_fault(tmp_path: Path) -> None:
    recipe = Recipe(("w",)).choosing(Rows(1, 4))
    with pytest.raises(ValueError, match=r"w have 3 rows, but the plan wants Rows\(start=1, stop=4"):
        write(
            tmp_path / "p", {"w": recipe}, Source({"w": np.ones((3, 2), np.float32)}), {"w": Expected((3, 2), "int8")}
        )


def test_vectors_are_rows_of_one_element(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source({"a": np.arange(5, dtype=np.float32), "b": np.arange(3, dtype=np.float32)})
    monkeypatch.setattr(execute, "BLOCK_ELEMENTS", 2)
    path = tmp_path / "params.bin"
    [one], _ = write(path, {"bias": Recipe(("a", "b"), (Cast("float32"),))}, source)
    np.testing.assert_array_equal(read_back(path, one), [0, 1, 2, 3, 4, 0, 1, 2])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("chain", CHAINS)
def test_weights_that_are_not_finite_are_refused(chain: str, stored: str, bad: float, tmp_path: Path) -> None:
    weights = np.ones((70, 6), np.float32)
    weights[66, 3] = bad
    source = Source({"model.w": weights.astype(numpy_dtype(stored))})
    with pytest.raises(CheckpointError, match=r"model\.w: rows 0 to 69 hold values that are not finite in \w+ \(param"):
        write(tmp_path / "p", {"param": Recipe(("model.w",), CHAINS[chain])}, source, {"param": Expected((1,), "int8")})


@pytest.mark.parametrize(("chain", "large"), [("float16", 7e4), ("packed float16", -7e4), ("bfloat16", 3.4e38)])
def test_weights_too_large_for_their_type_are_refused(chain: str, large: float, tmp_path: Path) -> None:
    source = Source({"w": np.array([[1, 2], [large, 0]], np.float32)})
    with pytest.raises(CheckpointError, match=f"not finite in {chain.split()[-1]} .*a wider backend.dtype"):
        write(tmp_path / "p", {"w": Recipe(("w",), CHAINS[chain])}, source, {"w": Expected((2, 2), "float16")})


def test_a_plan_that_makes_other_sizes_than_the_function_expects_is_a_fault(tmp_path: Path) -> None:
    source = Source({"w": np.ones((2, 2), np.float32)})
    with pytest.raises(ValueError, match="the plan made 16 bytes for w"):
        write(tmp_path / "p", {"w": Recipe(("w",))}, source, {"w": Expected((3, 2), "float32")})


def test_progress_sees_every_parameter(tmp_path: Path) -> None:
    source = Source({"w": np.ones((2, 2), np.float32)})
    seen: list[str] = []

    def progress(names: Sequence[str]) -> Iterator[str]:
        for name in names:
            seen.append(name)
            yield name

    plan = ParameterPlan({name: Recipe(("w",)) for name in ("b", "a")})
    expected = {name: Expected((2, 2), "float32") for name in plan}
    write_parameters(plan, expected, source, source.shapes, tmp_path / "p", progress)
    assert seen == ["b", "a"]
