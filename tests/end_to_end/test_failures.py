"""Bad YAML files and damaged checkpoints through ``compile_config``: a sentence, and nothing left behind.

To go through 300 of them in seconds, what is slow and what no input reaches that got so far has stand-ins here: tracing
and passes give what they gave for the undamaged model, the build writes a few bytes. All the rest is the real thing:
configuration, checkpoint, tokenizer, weights, manifest, and the writing and removing of the folder.
"""

from __future__ import annotations

import random
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.checkpoints import write_checkpoint, write_gguf
from support.damage import CASES, PERHAPS, Damage, apply, write_clean
from support.end_to_end import configuration, without_code
from support.yaml_mutations import MUTATIONS, Mutation

from vamc_py import compiler
from vamc_py.compiler import compile_config
from vamc_py.config import load_config
from vamc_py.errors import CheckpointError, UserError

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


class ReachedTraceError(Exception):
    """The input passed every check that comes before the trace."""


@dataclass(frozen=True)
class Clean:
    """The undamaged checkpoint, and what the passes make of its model, by its configuration."""

    folder: Path
    lowered: dict[compiler.ModelConfig, compiler.Lowered]


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    folder = tmp_path_factory.mktemp("clean")
    write_clean(folder)
    lowered = {}
    for checkpoint in (folder, folder / "model.gguf"):
        loaded = configuration(checkpoint, folder, dtype="int8")
        config = loaded.config
        source, model = compiler.open_model(config)
        program = compiler.trace_model(config, source, model)
        lowered[model] = compiler.lower(
            program,
            compiler.resolve_pipeline(loaded),
            compiler.context_of(config, compiler.target_of(loaded), source, model),
        )
    return Clean(folder, lowered)


@pytest.fixture
def stand_ins(clean: Clean, monkeypatch: pytest.MonkeyPatch) -> None:
    """See the module's docstring. A model that another damage made is not traced."""

    def trace(_config: Any, _checkpoint: Any, model: compiler.ModelConfig) -> compiler.Lowered:
        if model not in clean.lowered:
            raise ReachedTraceError
        return clean.lowered[model]

    monkeypatch.setattr(compiler, "trace_model", trace)
    monkeypatch.setattr(compiler, "lower", lambda traced, *_: traced)
    without_code(monkeypatch)


def everything(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("stand_ins")
def test_the_stand_ins_let_a_good_checkpoint_through(clean: Clean, tmp_path: Path) -> None:
    compiled = compile_config(configuration(clean.folder, tmp_path, dtype="int8"))
    assert {"manifest.json", "params.bin", "config.yaml", "mod.so"} <= set(everything(compiled.folder))


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize(("damage", "seed"), CASES, ids=lambda value: getattr(value, "__name__", value))
def test_a_damaged_checkpoint_leaves_nothing(clean: Clean, tmp_path: Path, damage: Damage, seed: int) -> None:
    folder = shutil.copytree(clean.folder, tmp_path / "model")
    location, _ = apply(damage, seed, folder)
    workspace = tmp_path / "out"
    refusal, compiled = None, False
    try:
        compile_config(configuration(location, workspace, dtype="int8"))
        compiled = True
    except CheckpointError as error:
        refusal = str(error)
    except ReachedTraceError:
        pass
    assert ("model/manifest.json" in everything(workspace)) if compiled else (everything(workspace) == {})
    assert damage in PERHAPS if refusal is None else str(folder) in refusal


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two checkpoints, and the examples on them."""
    folder = tmp_path_factory.mktemp("examples")
    # Of a width that four dies can share.
    write_checkpoint(folder / "model", architecture="qwen3", max_positions=4096, intermediate=128)
    write_gguf(folder / "model.gguf", architecture="llama", quantization="Q8_0", max_positions=4096)
    for example in EXAMPLES:
        text = re.sub(r"checkpoint: \S+?(\.gguf)?(?=\s)", r"checkpoint: model\1", example.read_text())
        (folder / example.name).write_text(text.replace("./vacc_deploy", "out"))
    return folder


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_unchanged_example_reaches_the_trace(examples: Path, example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(examples)
    with pytest.raises(ReachedTraceError):
        compile_config(load_config(Path(example.name)))


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_mutated_files_leave_nothing(mutation: Mutation, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 of each of the five kinds: 200 files."""
    monkeypatch.chdir(examples)
    rng = random.Random(mutation.__name__)
    path = Path("mutated.yaml")
    refused = 0
    for _ in range(40):
        path.write_bytes(mutation(Path(rng.choice(EXAMPLES).name).read_bytes(), rng))
        before = everything(examples)
        try:
            compile_config(load_config(path))
        except UserError:
            refused += 1
        except ReachedTraceError:
            pass
        assert everything(examples) == before
    assert refused
