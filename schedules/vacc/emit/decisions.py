"""What a schedule of the vacc device decides, and the series of decisions that are tried until a stage fits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

TILE = 16


@dataclass(frozen=True)
class Decisions:
    """Sizes that trade SSRAM against DDR traffic and the number of commands. Bytes where nothing else is said."""

    resident: int
    """A tensor between operators that is not larger stays in SSRAM; others lie in DDR."""
    inputs: int
    """Of the left factor of a product that are in SSRAM at a time; a longer one is cut in blocks of rows."""
    weights: int
    """Of a tile of weights as the matrix unit reads them (float16, or int8 where activations are int8)."""
    outputs: int
    """Of a tile of a product's result in float32."""
    scores: int
    """Of the attention scores of a block, in float32."""
    loads: int = 3
    """Tiles of weights that are loaded, or being loaded, ahead of their turn."""
    wide: int = 2
    """Tiles of weights as the matrix unit reads them, where they are not loaded so: one is multiplied, one made."""

    def rows_of(self, rows: int, columns: int, itemsize: int) -> int:
        """Rows of a block of a left factor [rows, columns]."""
        return fitting(rows, self.inputs // (columns * itemsize))

    def columns_of(self, columns: int, depth: int, itemsize: int, rows: int) -> int:
        """Columns of a tile of a product [rows, depth] by [depth, columns], all of them multiples of the matrix tile.

        Of the widths that fit, one that leaves little over in the last tile.
        """
        largest = max(min(self.weights // (depth * itemsize), self.outputs // (rows * 4)) // TILE * TILE, TILE)
        tiles = -(-columns // largest)
        return min(-(-columns // tiles // TILE) * TILE, -(-columns // TILE) * TILE)


def fitting(count: int, most: int) -> int:
    """`count`, or, where it is above `most`, the length of parts of it that are about alike.

    That is a multiple of the matrix tile, not above `most` unless that is less than a tile.
    """
    if count <= most:
        return count
    whole = max(most // TILE * TILE, TILE)
    parts = -(-count // whole)
    return min(-(-count // (parts * TILE)) * TILE, count)


# Shares of SSRAM. A tensor that goes through DDR costs its bytes; small tiles cost a launch each, which is more.
_RESIDENT = (0.45, 0.3, 0.2, 0.1, 0.05, 0.02, 0.0)
_LARGE_TILES = (0.05, 0.0375, 0.03, 0.025)
_SMALL_TILES = (0.0125, 0.006, 0.002)


def series(ssram_bytes: int) -> Iterator[Decisions]:
    """From the ones that leave most in SSRAM, with large tiles, to those that need least."""
    for tiles in (_LARGE_TILES, _SMALL_TILES):
        for resident in _RESIDENT:
            for tile in tiles:
                yield Decisions(
                    resident=int(resident * ssram_bytes),
                    inputs=int(min(0.25, 5 * tile) * ssram_bytes),
                    weights=int(tile * ssram_bytes),
                    outputs=int(tile * ssram_bytes),
                    scores=int(2 * tile * ssram_bytes),
                )
