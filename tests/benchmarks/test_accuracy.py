"""benchmarks/accuracy*.py: fake quantization against its definition, the ranking on tiny models, bad arguments."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import write_checkpoint
from support.end_to_end import configuration
from typer.testing import CliRunner

from benchmarks import accuracy
from benchmarks.accuracy_model import Site, WideRun, fake_quantize, load_model, narrow, narrowed, sites
from benchmarks.accuracy_rank import Ranked, Results, Settings, measure, patterns, recommend, targets
from vamc_py.check.torch_reference import causal_mask
from vamc_py.config import LoadedConfig
from vamc_py.errors import UserError
from vamc_py.frontend.model_config import ModelConfig
from vamc_py.frontend.models.qwen2 import Qwen2ForCausalLM
from vamc_py.runtime.perplexity import negative_log_likelihood

SETTINGS = Settings("model", "int8_token", "site", 2, 16)


def defined(x: np.ndarray, group: int) -> np.ndarray:
    """Row by row and group by group, as the definition reads."""
    result = np.zeros_like(x)
    for row in range(len(x)):
        for begin in range(0, x.shape[1], group):
            values = x[row, begin : begin + group]
            scale = np.abs(values).max() / np.float32(127)
            if scale != 0:
                result[row, begin : begin + group] = np.rint(values / scale) * scale
    return result


def built(loaded: LoadedConfig) -> tuple[Qwen2ForCausalLM, ModelConfig]:
    return load_model(loaded.config)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedConfig:
    folder = tmp_path_factory.mktemp("accuracy")
    write_checkpoint(folder / "checkpoint", architecture="qwen3", scale=0.2)
    return configuration(folder / "checkpoint", folder, dtype="int8")


@pytest.fixture(scope="module")
def run(loaded: LoadedConfig) -> WideRun:
    module, model = built(loaded)
    windows = np.random.default_rng(0).integers(0, model.vocab_size, (2, 16))
    return WideRun(module, model, list(windows))


@given(
    rows=st.integers(1, 4), columns=st.integers(1, 70), group=st.sampled_from([1, 3, 32, 64]), seed=st.integers(0, 99)
)
def test_fake_quantization_is_its_definition(rows: int, columns: int, group: int, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)
    x[0, : columns // 2] = 0
    np.testing.assert_array_equal(fake_quantize(torch.from_numpy(x), group).numpy(), defined(x, group))


def test_halves_go_to_even() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5]])
    assert fake_quantize(x, 6).tolist() == [[127.0, 0.0, 2.0, 2.0, -0.0, -2.0]]


def test_each_arithmetic_has_its_groups() -> None:
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((3, 200), dtype=np.float32))
    for activation, group in (("int8_g32", 32), ("int8_g64", 64), ("int8_g128", 128), ("int8_token", 200)):
        assert torch.equal(narrowed(x, activation), fake_quantize(x, group))
    assert torch.equal(narrowed(x, "bf16"), x.bfloat16().float())
    assert torch.equal(narrowed(x, "int16"), x)


def test_the_wide_run_scores_what_ppl_scores(run: WideRun) -> None:
    empty = torch.zeros((1, run.model.kv_heads, 0, run.model.head_dim))
    for tokens, nll in zip(run.tokens, run.nll, strict=True):
        with torch.inference_mode():
            past = [(empty, empty)] * run.model.layers
            logits = run.module(tokens[None], causal_mask(16, 0, "additive"), torch.arange(16)[None], past)[0]
        expected = negative_log_likelihood(logits[0, 8:-1].numpy(), tokens[9:].numpy()).mean()
        assert nll == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("where", [Site(0, "qkv"), Site(1, "down"), Site(None, "lm_head")], ids=str)
def test_starting_at_the_narrow_layer_changes_nothing(run: WideRun, where: Site) -> None:
    loss = run.loss([where], "int8_token")
    with narrow(run.module, [where], "int8_token"):
        whole = WideRun(run.module, run.model, list(run.tokens.numpy()))
    np.testing.assert_allclose(loss.nll, whole.nll, rtol=1e-6)
    assert (loss.kl > 0).all()


def test_nothing_narrow_loses_nothing(run: WideRun) -> None:
    loss = run.loss([], "int8_token")
    np.testing.assert_array_equal(loss.nll, run.nll)
    np.testing.assert_array_equal(loss.kl, 0)


def test_the_layer_with_an_outlier_is_first(loaded: LoadedConfig) -> None:
    module, model = built(loaded)
    mlp = module.model.layers[1].mlp
    mlp.up_proj.weight[0] *= 1e4  # one column of the product is large, and its weight small: the same in float
    mlp.down_proj.weight[:, 0] *= 1e-4
    windows = np.random.default_rng(2).integers(0, model.vocab_size, (2, 16))
    lines = list(measure(WideRun(module, model, list(windows)), SETTINGS))
    assert {line.target for line in lines} == {str(site) for site in sites(model)}
    assert sum(line.share for line in lines) == pytest.approx(1)
    first = max(lines, key=lambda line: line.kl)
    assert (first.target, first.patterns) == ("layers.1.down", ("model.layers.1.mlp.down_proj",))


def test_a_ranking_goes_on(run: WideRun, tmp_path: Path) -> None:
    file = Results(tmp_path / "rank.jsonl", SETTINGS)
    measured = measure(run, SETTINGS)
    file.add(next(measured))
    file.add(next(measured))
    again = Results(tmp_path / "rank.jsonl", SETTINGS)
    assert again.lines == file.lines
    rest = list(measure(run, SETTINGS, {line.target for line in again.lines}))
    assert [line.target for line in rest] == [line.target for line in measure(run, SETTINGS)][2:]


@pytest.mark.parametrize("by", ["site", "kind", "layer"])
def test_targets_are_all_sites_once(run: WideRun, by: accuracy.By) -> None:
    found = [site for where in targets(run.model, by).values() for site in where]
    assert sorted(map(str, found)) == sorted(map(str, sites(run.model)))


@pytest.mark.parametrize("by", ["site", "kind", "layer"])
def test_patterns_name_their_sites_only(run: WideRun, by: accuracy.By) -> None:
    for where in targets(run.model, by).values():
        named = patterns(where, run.model)
        assert [site for site in sites(run.model) if site.matches(named)] == list(where)


def test_the_choice_is_the_most_for_the_least() -> None:
    figures = (("a", 0.5, 3.0), ("b", 0.2, 2.0), ("c", 0.3, 1.5), ("free", 0.0, 0.1))
    lines = [Ranked(name, (name,), share, kl, 0.0, 0.0) for name, share, kl in figures]
    assert [line.target for line in recommend(lines, 0.3)] == ["free", "b"]
    assert [line.target for line in recommend(lines, 0.5)] == ["free", "b", "c"]
    assert [line.target for line in recommend(lines, 1.0)] == ["free", "b", "a", "c"]


def test_other_settings_need_another_file(tmp_path: Path) -> None:
    Results(tmp_path / "rank.jsonl", SETTINGS)
    with pytest.raises(UserError, match="other settings"):
        Results(tmp_path / "rank.jsonl", Settings(**{**asdict(SETTINGS), "windows": 3}))


@pytest.mark.parametrize("content", ["", "{}", "[1]", json.dumps(asdict(SETTINGS)) + "\n{"])
def test_a_damaged_results_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "rank.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"rank\.jsonl is no results file"):
        Results(tmp_path / "rank.jsonl")


def test_float_weights_are_refused(loaded: LoadedConfig) -> None:
    config = loaded.config.model_copy(update={"backend": loaded.config.backend.model_copy(update={"dtype": "fp32"})})
    with pytest.raises(UserError, match="set int8"):
        load_model(config)


@pytest.mark.parametrize("command", ["estimate", "compare", "rank", "wide"])
def test_help_has_an_example(command: str) -> None:
    shown = CliRunner().invoke(accuracy.app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"Example: python -m benchmarks.accuracy {command} " in shown.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["estimate", "config.yaml", "--text", "text", "--activation", "int7"], "--activation int7: one of bf16"),
        (["compare", "config.yaml", "--text", "text", "--activation", "int16"], "--activation int16: one of bf16"),
        (["wide", "rank.jsonl", "--most", "0"], "--most 0"),
        (["wide", "nowhere.jsonl"], "nowhere.jsonl is no results file"),
        (["rank", "nowhere.yaml", "rank.jsonl", "--text", "text"], "nowhere.yaml"),
    ],
)
def test_bad_arguments_are_one_sentence(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["accuracy", *arguments])
    with pytest.raises(SystemExit) as ended:
        accuracy.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("accuracy: error: ")
    assert message in error


def test_compared_builds_differ_in_the_arithmetic(loaded: LoadedConfig, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(loaded.text)
    found = accuracy.builds(config, ("name=tiny",), ["int8_g64"], ["*.down_proj", "lm_head"])
    assert list(found) == ["int16", "int8_g64", "int8_g64, wide"]
    assert [one.config.name for one in found.values()] == ["tiny-int16", "tiny-int8_g64", "tiny-int8_g64-wide"]
    sections = [one.config.frontend.quantize for one in found.values()]
    assert [section and section.activation for section in sections] == ["int16", "int8_g64", "int8_g64"]
    assert [section and section.wide for section in sections] == [None, (), ("*.down_proj", "lm_head")]


def test_without_weights_to_keep_the_default_is_compared(loaded: LoadedConfig, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(loaded.text)
    found = accuracy.builds(config, (), ["bf16", "int8_g64"], [])
    assert list(found) == ["int16", "bf16", "int8_g64", "int8_g64, wide"]
    quantize = found["int8_g64, wide"].config.frontend.quantize
    assert quantize is not None
    assert quantize.wide == ("lm_head",)


def test_the_commands_run(loaded: LoadedConfig, tmp_path: Path) -> None:
    config, text, results = tmp_path / "config.yaml", tmp_path / "text", tmp_path / "rank.jsonl"
    config.write_text(loaded.text)
    text.write_text("the thing and the other thing in a string " * 8)
    sizes = ["--text", str(text), "--context", "16", "--windows", "2"]
    shown = CliRunner().invoke(accuracy.app, ["estimate", str(config), "--activation", "int8_token", *sizes])
    assert shown.exit_code == 0, shown.output
    assert "int8_token" in shown.output
    shown = CliRunner().invoke(accuracy.app, ["rank", str(config), str(results), "--by", "kind", *sizes])
    assert shown.exit_code == 0, shown.output
    shown = CliRunner().invoke(accuracy.app, ["wide", str(results), "--most", "0.4"])
    assert shown.exit_code == 0, shown.output
    assert 'frontend.quantize.wide=["' in shown.output
