"""A hundred ways to damage a checkpoint: a folder in two shards, and the GGUF file in it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.checkpoints import safetensors_header, write_checkpoint, write_gguf

Damage = Callable[[Path, random.Random], None]
TEXTS = ["config.json", "generation_config.json", "model.safetensors.index.json", "tokenizer_config.json"]


def _shard(folder: Path, rng: random.Random) -> Path:
    return rng.choice(sorted(folder.glob("*.safetensors")))


def truncate_weights(folder: Path, rng: random.Random) -> None:
    _truncate(_shard(folder, rng), rng)


def truncate_text(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(TEXTS)
    path.write_bytes(path.read_bytes().rstrip()[: -rng.randint(1, 20)])


def break_text(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice(TEXTS)
    content = path.read_bytes()
    at = rng.randrange(len(content))
    path.write_bytes(content[:at] + rng.choice([b"\xff", b"\0", b"\n\x1b"]) + content[at:])


def remove_shard(folder: Path, rng: random.Random) -> None:
    _shard(folder, rng).unlink()


def change_dtype(folder: Path, rng: random.Random) -> None:
    def change(entry: dict[str, Any]) -> None:
        entry["dtype"] = rng.choice(["F64", "I16", "I32", "U8", "BOOL", "F8_E4M3", "Q4", "", 7, None])

    _edit_header(_shard(folder, rng), rng, change)


def same_size_dtype(folder: Path, rng: random.Random) -> None:
    _edit_header(_shard(folder, rng), rng, lambda entry: entry.update(dtype="I32"))


def change_shape(folder: Path, rng: random.Random) -> None:
    def change(entry: dict[str, Any]) -> None:
        shape = entry["shape"]
        entry["shape"] = rng.choice(
            [[*shape, 1], [*shape[::-1], 1], [2 * shape[0], *shape[1:]], [-1], "64", [2**62, 0]]
        )

    _edit_header(_shard(folder, rng), rng, change)


def change_offsets(folder: Path, rng: random.Random) -> None:
    def change(entry: dict[str, Any]) -> None:
        begin, end = entry["data_offsets"]
        moves = [
            [begin + 4, end + 4],
            [begin - 4, end - 4],
            [end, begin],
            [begin, 2**63],
            [begin],
            [begin + 1, end],
            {},
        ]
        entry["data_offsets"] = rng.choice(moves)

    _edit_header(_shard(folder, rng), rng, change)


def rename_tensor(folder: Path, rng: random.Random) -> None:
    shard = _shard(folder, rng)
    header, data = _split(shard)
    name = rng.choice([name for name in header if name != "__metadata__"])
    header[rng.choice(["other.weight", name + "s", ""])] = header.pop(name)
    shard.write_bytes(safetensors_header(header) + data)


def drop_tensor(folder: Path, rng: random.Random) -> None:
    """From the index too, so that only the comparison with the model can tell."""
    shard = _shard(folder, rng)
    header, data = _split(shard)
    name = rng.choice([name for name in header if name != "__metadata__"])
    del header[name]
    shard.write_bytes(safetensors_header(header) + data)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    del content["weight_map"][name]
    index.write_text(json.dumps(content))


def flip_header(folder: Path, rng: random.Random) -> None:
    shard = _shard(folder, rng)
    _flip(shard, rng, 8 + int.from_bytes(shard.read_bytes()[:8], "little"))


def flip_text(folder: Path, rng: random.Random) -> None:
    path = folder / rng.choice([*TEXTS, "tokenizer.json"])
    _flip(path, rng, path.stat().st_size)


def truncate_gguf(folder: Path, rng: random.Random) -> None:
    _truncate(folder / "model.gguf", rng)


def flip_gguf(folder: Path, rng: random.Random) -> None:
    """In the counts, the first keys, anywhere in the header, or anywhere in the file."""
    path = folder / "model.gguf"
    _flip(path, rng, rng.choice([24, 400, 8_000, path.stat().st_size]))


def flip_gguf_tensors(folder: Path, rng: random.Random) -> None:
    path = folder / "model.gguf"
    content = path.read_bytes()
    _flip(path, rng, content.index(b"output_norm.weight") + 50, content.index(b"token_embd.weight") - 8)


SURE: list[Damage] = [
    truncate_weights,
    truncate_text,
    break_text,
    remove_shard,
    change_dtype,
    same_size_dtype,
    change_shape,
    change_offsets,
    rename_tensor,
    drop_tensor,
    truncate_gguf,
]
PERHAPS: list[Damage] = [flip_header, flip_text, flip_gguf, flip_gguf_tensors]  # a flipped bit may do no harm
CASES = [(damage, seed) for damage in SURE for seed in range(5)] + [
    (damage, seed) for damage, count in zip(PERHAPS, (12, 8, 14, 11), strict=True) for seed in range(count)
]


def _truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.choice([rng.randrange(64), rng.randrange(4_000), rng.randrange(len(content))])])


def _flip(path: Path, rng: random.Random, stop: int, start: int = 0) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice([1, 1, 4])):
        content[rng.randrange(start, stop)] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _split(path: Path) -> tuple[dict[str, Any], bytes]:
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8:end])
    return header, content[end:]


def _edit_header(path: Path, rng: random.Random, change: Callable[[dict[str, Any]], None]) -> None:
    header, data = _split(path)
    change(header[rng.choice([name for name in header if name != "__metadata__"])])
    path.write_bytes(safetensors_header(header) + data)


def apply(damage: Damage, seed: int, folder: Path) -> tuple[Path, str]:
    """Damages the folder's model or the GGUF file in it; returns what to open, and its kind."""
    damage(folder, random.Random(f"{damage.__name__} {seed}"))
    return (folder / "model.gguf", "gguf") if "gguf" in damage.__name__ else (folder, "huggingface")


def write_clean(folder: Path) -> dict[str, Any]:
    """Writes the model that is damaged, as a folder in two shards with a GGUF file in it; returns its config."""
    config = write_checkpoint(folder, architecture="llama", shards=2)
    write_gguf(folder / "model.gguf", architecture="llama", quantization="Q8_0")
    return config
