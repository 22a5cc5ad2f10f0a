"""GPTQ against the paper's algorithm written plainly in float64: the inverse Hessian updated column by column."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vamc_py.quant.gptq import HessianError, invert, quantize
from vamc_py.quant.statistics import InputStatistics
from vamc_py.weights.formats import WeightFormat
from vamc_py.weights.grid import group_scales, round_to_grid
from vamc_py.weights.rounded import Rounded, round_to_nearest

FORMATS = [
    WeightFormat("int8"),
    WeightFormat("int4"),
    WeightFormat("int4", 32),
    WeightFormat("int4", 64, zeros=True),
    WeightFormat("int4", 128, scale="float16"),
    WeightFormat("int8", 32, zeros=True, scale="float16"),
]
DAMP = 0.01


def layer(rows: int, columns: int, tokens: int = 512, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A weight f32 [rows, columns], and inputs f32 [tokens, columns] that depend on each other, of unlike sizes."""
    generator = np.random.default_rng(seed)
    mixing = generator.standard_normal((columns, columns)) / np.sqrt(columns) + 0.5 * np.eye(columns)
    inputs = generator.standard_normal((tokens, columns)) @ mixing * np.exp(generator.standard_normal(columns))
    return generator.standard_normal((rows, columns), np.float32), inputs.astype(np.float32)


def hessian(inputs: np.ndarray) -> torch.Tensor:
    statistics = InputStatistics(inputs.shape[1])
    for part in np.array_split(inputs, 3):
        statistics.add(torch.from_numpy(part))
    return statistics.hessian()


def ours(
    weight: np.ndarray, inputs: np.ndarray, form: WeightFormat, *, desc_act: bool = False, blocksize: int = 128
) -> Rounded:
    return quantize(torch.from_numpy(weight), invert(hessian(inputs), DAMP, desc_act=desc_act), form, blocksize)


def plain(weight: np.ndarray, inputs: np.ndarray, form: WeightFormat, *, desc_act: bool = False) -> np.ndarray:
    """The values int8 [N, K] by the paper's equations (2) and (3), in float64."""
    rows, columns = weight.shape
    x = inputs.astype(np.float64)
    second = 2 / len(x) * x.T @ x
    order = np.argsort(-np.diag(second), kind="stable") if desc_act else np.arange(columns)
    left = np.linalg.inv(second + DAMP * np.diag(second).mean() * np.eye(columns))
    current, values = weight.astype(np.float64), np.zeros((rows, columns), np.int8)
    size = form.group or columns
    found: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}
    for k in order:
        group = k // size
        if group not in found:
            at = slice(group * size, min((group + 1) * size, columns))
            found[group] = group_scales((weight if desc_act else current.astype(np.float32))[:, at], form)
        scale, zero = found[group]
        values[:, k] = round_to_grid(current[:, [k]].astype(np.float32), scale, zero, form)[:, 0]
        shift = 0 if zero is None else zero.astype(np.float64)
        error = current[:, k] - (values[:, k] - shift) * scale
        current -= np.outer(error / left[k, k], left[k])
        left -= np.outer(left[:, k], left[k]) / left[k, k]
        left[k, k] = 1  # done with; its row and column are 0
    return values


def output_error(weight: np.ndarray, rounded: np.ndarray, inputs: np.ndarray) -> float:
    """Of the layer's outputs, relative, in squares."""
    exact = inputs.astype(np.float64) @ weight.T
    return float(((inputs.astype(np.float64) @ rounded.T - exact) ** 2).sum() / (exact**2).sum())


@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(7, 96), (33, 144), (5, 131), (1, 33)])
def test_values_are_those_of_the_plain_algorithm(rows: int, columns: int, form: WeightFormat, desc_act: bool) -> None:
    weight, inputs = layer(rows, columns, seed=columns)
    found, wanted = ours(weight, inputs, form, desc_act=desc_act), plain(weight, inputs, form, desc_act=desc_act)
    assert found.values.dtype == np.int8
    assert found.scale.shape == form.scale_shape(rows, columns)
    assert found.scale.dtype == form.scale
    # A value half way between two grid points may go the other way in float32; its row then goes its own way.
    assert (found.values != wanted).any(axis=1).sum() <= 1
    meant = Rounded(wanted, found.scale, found.zero, form).floats()
    assert output_error(weight, found.floats(), inputs) == pytest.approx(output_error(weight, meant, inputs), rel=0.02)


def test_a_row_of_a_wide_layer() -> None:
    weight, inputs = layer(16, 576, tokens=300)  # fewer tokens than columns: only the damping makes it invertible
    form = WeightFormat("int4", 128)
    found, wanted = ours(weight, inputs, form), plain(weight, inputs, form)
    assert found.scale.shape == (16, 5)
    assert (found.values != wanted).mean() < 0.02


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 150),
    blocksize=st.integers(1, 160),
    form=st.sampled_from(FORMATS),
    desc_act=st.booleans(),
)
def test_the_block_size_changes_nothing_but_the_last_places(
    rows: int, columns: int, blocksize: int, form: WeightFormat, desc_act: bool
) -> None:
    weight, inputs = layer(rows, columns, tokens=64, seed=rows)
    blocked = ours(weight, inputs, form, desc_act=desc_act, blocksize=blocksize)
    at_once = ours(weight, inputs, form, desc_act=desc_act, blocksize=1024)
    assert (blocked.values != at_once.values).any(axis=1).sum() <= 1
    assert blocked.values.shape == (rows, columns)


@pytest.mark.parametrize("desc_act", [False, True])
@pytest.mark.parametrize("form", FORMATS, ids=str)
def test_beats_rounding_to_nearest(form: WeightFormat, desc_act: bool) -> None:
    weight, inputs = layer(24, 160)
    calibrated = output_error(weight, ours(weight, inputs, form, desc_act=desc_act).floats(), inputs)
    assert calibrated < 0.7 * output_error(weight, round_to_nearest(weight, form).floats(), inputs)


@pytest.mark.parametrize("form", FORMATS, ids=str)
@pytest.mark.parametrize("desc_act", [False, True])
def test_without_dependent_inputs_it_rounds_to_nearest(form: WeightFormat, desc_act: bool) -> None:
    weight, _ = layer(6, 70)
    found = quantize(torch.from_numpy(weight), invert(2 * torch.eye(70), DAMP, desc_act=desc_act), form)
    nearest = round_to_nearest(weight, form)
    np.testing.assert_array_equal(found.values, nearest.values)
    np.testing.assert_array_equal(found.scale, nearest.scale)
    np.testing.assert_array_equal(found.floats(), nearest.floats())


def test_order_of_activations_keeps_the_groups_of_the_columns() -> None:
    form = WeightFormat("int4", 32, zeros=True)
    weight, inputs = layer(8, 100)
    found, nearest = ours(weight, inputs, form, desc_act=True), round_to_nearest(weight, form)
    np.testing.assert_array_equal(found.scale, nearest.scale)
    np.testing.assert_array_equal(found.zero, nearest.zero)
    assert (found.values != nearest.values).any()


def test_a_column_without_input_is_rounded_to_nearest_and_disturbs_nobody() -> None:
    form = WeightFormat("int8")
    weight, inputs = layer(5, 40)
    inputs[:, [3, 17]] = 0
    found = ours(weight, inputs, form)
    nearest = round_to_nearest(weight, form)
    np.testing.assert_array_equal(found.values[:, [3, 17]], nearest.values[:, [3, 17]])
    assert output_error(weight, found.floats(), inputs) < output_error(weight, nearest.floats(), inputs)


def test_without_any_input_all_is_rounded_to_nearest() -> None:
    weight, _ = layer(5, 40)
    found = ours(weight, np.zeros((8, 40), np.float32), WeightFormat("int4", 32))
    np.testing.assert_array_equal(found.values, round_to_nearest(weight, WeightFormat("int4", 32)).values)


@pytest.mark.parametrize("shape", [(1, 8), (6, 1), (4, 33)])
def test_the_weight_stays_as_it_was(shape: tuple[int, int]) -> None:
    weight, inputs = layer(*shape)
    before = weight.copy()
    ours(weight, inputs, WeightFormat("int4", 32))
    np.testing.assert_array_equal(weight, before)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_inputs_that_are_no_numbers_are_refused(value: float) -> None:
    _, inputs = layer(2, 8)
    inputs[3, 4] = value
    with pytest.raises(HessianError):
        invert(hessian(inputs), DAMP, desc_act=False)


def test_a_hessian_without_a_factor_is_refused() -> None:
    with pytest.raises(HessianError):
        invert(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), DAMP, desc_act=False)


def test_statistics_are_those_of_all_inputs() -> None:
    _, inputs = layer(1, 12, tokens=50)
    statistics = InputStatistics(12)
    for part in np.array_split(inputs, 4):
        statistics.add(torch.from_numpy(part))
    np.testing.assert_allclose(statistics.mean_magnitude().numpy(), np.abs(inputs).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(statistics.hessian().numpy(), 2 * inputs.T @ inputs / 50, rtol=1e-4, atol=1e-4)


def attended(samples: int = 4, tokens: int = 40, columns: int = 48) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Inputs of v_proj, weights of three heads of which most look at the first token, and what the heads sum up."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(samples, tokens, columns, generator=generator)
    x[:, 0] = torch.randn(columns, generator=generator) + 0.01 * x[:, 0]  # the same direction in every sample
    scores = torch.randn(samples, 3, tokens, tokens, generator=generator)
    scores[..., 0] += 6
    weights = torch.softmax(scores.masked_fill(torch.ones(tokens, tokens).triu(1) > 0, float("-inf")), dim=-1)
    return x, weights, (weights @ x[:, None]).reshape(-1, columns).numpy()


def test_attended_inputs_count_as_what_heads_sum_up() -> None:
    x, weights, sums = attended()
    statistics = InputStatistics(x.shape[-1])
    for part in (slice(0, 1), slice(1, 4)):
        statistics.add_attended(x[part], weights[part])
    np.testing.assert_allclose(statistics.hessian().numpy(), 2 * sums.T @ sums / len(sums), rtol=1e-3, atol=1e-4)


def test_behind_attention_the_error_is_less_where_all_look_at_one_token() -> None:
    x, weights, sums = attended()
    weight = layer(20, x.shape[-1])[0]
    form = WeightFormat("int4", 32)
    plain_statistics, attended_statistics = InputStatistics(x.shape[-1]), InputStatistics(x.shape[-1])
    plain_statistics.add(x.reshape(-1, x.shape[-1]))
    attended_statistics.add_attended(x, weights)
    errors = []
    for statistics in (plain_statistics, attended_statistics):
        inverse = invert(statistics.hessian(), DAMP, desc_act=False)
        errors.append(output_error(weight, quantize(torch.from_numpy(weight), inverse, form).floats(), sums))
    assert errors[1] < 0.5 * errors[0]
