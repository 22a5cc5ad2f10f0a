"""What the parameter plan reads of a checkpoint, and the mean of a rotated bias."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from vamc_py.checkpoint.base import TensorInfo
from vamc_py.weights.formats import WeightFormat
from vamc_py.weights.plan import MeanRotated
from vamc_py.weights.source import VALUES, PlanSource


class Stored:
    """As much of a checkpoint as the plan reads."""

    def __init__(self) -> None:
        self.arrays: dict[str, Any] = {
            "plain": np.arange(6, dtype=np.float16).reshape(3, 2),
            "int": np.array([[-8, 7, 1], [0, 1, 2]], np.int8),
            "int.scale": np.array([[0.5, 2.0], [1.0, 0.25]], np.float16),
            "int.zero": np.array([[-1, 0], [1, 2]], np.int8),
            "float8": np.array([[1.5, -448.0]], ml_dtypes.float8_e4m3fn),
            "float8.scale": np.array([0.5], np.float32),
        }
        self.quantized = {
            "int": WeightFormat("int4", 2, zeros=True, scale="float16"),
            "float8": WeightFormat("float8_e4m3fn"),
        }
        self.tensors = {name: TensorInfo(name, one.shape, one.dtype.name) for name, one in self.arrays.items()}

    def read(self, name: str, start: int = 0, stop: int | None = None) -> Any:
        return self.arrays[name][start:stop]


def test_a_weight_is_read_dequantized_and_its_values_as_they_are() -> None:
    stored = Stored()
    source = PlanSource(stored)  # type: ignore[arg-type]
    assert source.read("int").tolist() == [[-3.5, 4, 2], [-1, 0, 0]]
    assert source.read("int", 1, 2).tolist() == [[-1, 0, 0]]
    assert source.read("int").dtype == np.float32
    assert source.read("float8").tolist() == [[0.75, -224]]
    assert source.read("int" + VALUES, 1) is not None
    assert np.array_equal(source.read("int" + VALUES), stored.arrays["int"])
    assert np.array_equal(source.read("int.zero", 0, 1), [[-1, 0]])
    assert source.read("plain", 2).tolist() == [[4, 5]]
    assert source.shapes["int" + VALUES] == (2, 3)
    assert "plain" + VALUES not in source.shapes


@pytest.mark.parametrize("positions", [1, 7, 300])
def test_the_mean_of_a_rotated_bias(positions: int) -> None:
    """Against the rotation written out, position by position, as R.vamc.rotary defines it."""
    heads, dim, scaling = 3, 6, 1.25
    frequencies = (1.0, 0.1, 1e-4)
    bias = np.random.default_rng(0).standard_normal(heads * dim).astype(np.float32)
    rotated = np.zeros((heads, dim))
    for t in range(positions):
        angles = np.array([*frequencies, *frequencies]) * t
        x = bias.reshape(heads, dim).astype(np.float64)
        turned = np.concatenate([-x[:, dim // 2 :], x[:, : dim // 2]], axis=1)
        rotated += scaling * (x * np.cos(angles) + turned * np.sin(angles)) / positions
    step = MeanRotated(frequencies, scaling, positions)
    assert step.rows_multiple == dim
    np.testing.assert_allclose(step.apply(bias), rotated, rtol=1e-5, atol=1e-6)
