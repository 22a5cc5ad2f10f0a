"""LoRA adapters: what they add to which weights, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.adapters import ATTENTION, adapter_config, write_adapter
from support.checkpoints import tensor_shapes, write_checkpoint, write_gguf
from support.vendor_checkpoints import gptq, write_vendor_checkpoint

from vamc_py.checkpoint import AdaptedCheckpoint, Checkpoint, check_tensors, open_checkpoint
from vamc_py.compiler import open_model
from vamc_py.config.load import load_text
from vamc_py.errors import CheckpointError

SHAPE = {"architecture": "qwen3", "hidden": 45, "intermediate": 51, "heads": 5, "kv_heads": 1, "head_dim": 6}
Q, V, K1 = ATTENTION.format(0, "q"), ATTENTION.format(1, "v"), ATTENTION.format(1, "k")
SHAPES = {Q: (30, 45), V: (6, 45)}


def _base(folder: Path, **changes: Any) -> Checkpoint:
    write_checkpoint(folder / "base", **(SHAPE | {"dtype": "bfloat16"} | changes))
    return open_checkpoint(str(folder / "base"), "huggingface")


def _assert_is(adapted: Checkpoint, name: str, meant: np.ndarray) -> None:
    """Within float32's rounding of the sums, whole and by rows."""
    whole = adapted.read(name)
    assert (whole.dtype, adapted.tensors[name].dtype) == (np.float32, "float32")
    limit = 4 * np.finfo(np.float32).eps * np.abs(meant).max()
    np.testing.assert_allclose(whole, meant, rtol=0, atol=limit)
    for start, stop in ((0, 1), (2, len(meant) - 1), (1, 1)):
        np.testing.assert_allclose(adapted.read(name, start, stop), meant[start:stop], rtol=0, atol=limit)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("of_base", ["float32", "bfloat16", "float16"])
def test_adapted_weights_are_the_sum(tmp_path: Path, dtype: torch.dtype, of_base: str) -> None:
    base = _base(tmp_path, dtype=of_base)
    products = write_adapter(tmp_path / "one", SHAPES, dtype=dtype)
    adapted = AdaptedCheckpoint(base, [str(tmp_path / "one")])
    for name, product in products.items():
        _assert_is(adapted, name, base.read(name).astype(np.float64) + 12 / 3 * product)
    check_tensors(adapted, tensor_shapes(base.config))
    untouched = f"{K1}.weight"
    assert adapted.tensors[untouched] == base.tensors[untouched]
    np.testing.assert_array_equal(adapted.read(untouched, 1, 4), base.read(untouched, 1, 4))


def test_several_adapters_add_up(tmp_path: Path) -> None:
    base = _base(tmp_path)
    one = write_adapter(tmp_path / "one", SHAPES)
    two = write_adapter(tmp_path / "two", {Q: (30, 45)}, seed=1, r=5, lora_alpha=2.5, target_modules=".*q_proj")
    adapted = AdaptedCheckpoint(base, [str(tmp_path / "one"), str(tmp_path / "two")])
    meant = base.read(f"{Q}.weight").astype(np.float64) + 4 * one[f"{Q}.weight"] + 0.5 * two[f"{Q}.weight"]
    _assert_is(adapted, f"{Q}.weight", meant)
    _assert_is(adapted, f"{V}.weight", base.read(f"{V}.weight").astype(np.float64) + 4 * one[f"{V}.weight"])


@pytest.mark.parametrize("stabilized", [False, True])
def test_ranks_and_alphas_by_pattern(tmp_path: Path, stabilized: bool) -> None:
    """A pattern matches a whole name or its end behind a dot, and the first that does counts."""
    base = _base(tmp_path)
    products = write_adapter(
        tmp_path / "one",
        SHAPES | {K1: (6, 45)},
        ranks={V: 7, K1: 2},
        target_modules=["q_proj", "v_proj", "1.self_attn.k_proj"],
        rank_pattern={"v_proj": 7, r"layers\.\d+\.self_attn\.[kv]_proj": 2, "proj": 9},
        alpha_pattern={f"^{Q}": 30, "attn.k_proj": 31},
        use_rslora=stabilized,
    )
    adapted = AdaptedCheckpoint(base, [str(tmp_path / "one")])
    for module, alpha, rank in ((Q, 30, 3), (V, 12, 7), (K1, 12, 2)):
        name = f"{module}.weight"
        scaling = alpha / (math.sqrt(rank) if stabilized else rank)
        _assert_is(adapted, name, base.read(name).astype(np.float64) + scaling * products[name])


def test_a_is_converted_once_for_all_blocks_of_a_weight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = _base(tmp_path)
    write_adapter(tmp_path / "one", SHAPES)
    adapted = AdaptedCheckpoint(base, [str(tmp_path / "one")])
    read: list[str] = []
    file = adapted._adapters[0].file
    whole = file.read
    monkeypatch.setattr(file, "read", lambda name, *rows: (read.append(name), whole(name, *rows))[1])
    for start in range(30):
        adapted.read(f"{Q}.weight", start, start + 1)
    adapted.read(f"{V}.weight")
    names = [name.split(".")[-2] for name in read]
    assert (names.count("lora_A"), names.count("lora_B")) == (2, 31)


def test_gguf_files_can_be_adapted(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", architecture="llama", quantization="Q8_0")
    base = open_checkpoint(str(tmp_path / "model.gguf"), "gguf")
    products = write_adapter(tmp_path / "one", {Q: (64, 64)}, target_modules=["q_proj"])
    adapted = AdaptedCheckpoint(base, [str(tmp_path / "one")])
    _assert_is(adapted, f"{Q}.weight", base.read(f"{Q}.weight").astype(np.float64) + 4 * products[f"{Q}.weight"])


def test_the_fingerprint_covers_adapters_and_their_order_but_not_their_place(tmp_path: Path) -> None:
    base = _base(tmp_path)
    write_adapter(tmp_path / "one", SHAPES)
    write_adapter(tmp_path / "two", SHAPES, seed=1)
    write_adapter(tmp_path / "wide", SHAPES, lora_alpha=13)
    shutil.copytree(tmp_path / "one", tmp_path / "copy")

    def fingerprint(*names: str) -> str:
        return AdaptedCheckpoint(base, [str(tmp_path / name) for name in names]).fingerprint()

    assert fingerprint("one") == fingerprint("copy")
    all_ = {base.fingerprint(), *map(fingerprint, ("one", "two", "wide")), fingerprint("one", "two")}
    assert len(all_ | {fingerprint("two", "one")}) == 6


def test_the_yaml_names_adapters(tmp_path: Path) -> None:
    base = _base(tmp_path)
    write_adapter(tmp_path / "one", SHAPES)
    text = f"""\
name: adapted
frontend:
  checkpoint: {tmp_path / "base"}
  adapters: [{tmp_path / "one"}]
  shape: {{input_ids: [[16], [64]]}}
backend: {{type: tvm_llvm, dtype: int8}}
"""

    def opened(*overrides: str) -> Checkpoint:
        return open_model(load_text(text, tmp_path / "a.yaml", overrides).config)[0]

    assert opened().tensors[f"{Q}.weight"].dtype == "float32"
    for none in ("null", "[]"):
        assert opened(f"frontend.adapters={none}").fingerprint() == base.fingerprint()
    with pytest.raises(CheckpointError, match=r"there is no folder .*two; correct frontend\.adapters"):
        opened(f"frontend.adapters=[{tmp_path / 'two'}]")


def test_hub_ids_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = _base(tmp_path)
    write_adapter(tmp_path / "one", SHAPES)
    asked: list[tuple[str, str]] = []

    def download(hub_id: str, key: str) -> Path:
        asked.append((hub_id, key))
        return tmp_path / "one"

    monkeypatch.setattr("vamc_py.checkpoint.adapters.download", download)
    assert AdaptedCheckpoint(base, ["owner/adapter"]).tensors[f"{Q}.weight"].dtype == "float32"
    assert asked == [("owner/adapter", "frontend.adapters")]


def test_configs_of_something_else_are_refused(tmp_path: Path) -> None:
    base = _base(tmp_path)
    write_adapter(tmp_path / "one", SHAPES)
    path = tmp_path / "one/adapter_config.json"

    def refused(match: str, **changes: Any) -> None:
        path.write_text(json.dumps(adapter_config(**changes)))
        with pytest.raises(CheckpointError, match=rf"{path}: {match}"):
            AdaptedCheckpoint(base, [str(tmp_path / "one")])

    refused(r"peft_type: 'LOHA' is not supported; known: LORA", peft_type="LOHA")
    refused(r"use_dora: True is not supported; only plain LoRA of linear layers", use_dora=True)
    refused(r"modules_to_save: \['lm_head'\] is not supported", modules_to_save=["lm_head"])
    refused(r"fan_in_fan_out: True is not supported", fan_in_fan_out=True)
    refused(r"bias: 'all' is not supported; known: none", bias="all")
    refused(r"lora_bias: True is not supported", lora_bias=True)
    refused(r"layer_replication: \[\[0, 1\]\] is not supported", layer_replication=[[0, 1]])
    refused(r"trainable_token_indices: \[3\] is not supported", trainable_token_indices=[3])
    refused(r"alora_invocation_tokens: \[1\] is not supported", alora_invocation_tokens=[1])
    refused(r"use_next_years_lora: True is not supported", use_next_years_lora=True)
    refused(r"init_lora_weights: 'pissa_niter_4' changes the adapted weights, too", init_lora_weights="pissa_niter_4")
    refused(r"r: 0 is out of range", r=0)
    refused(r"r: the key is missing", r=None)
    refused(r"lora_alpha: a number is expected, not 'x'", lora_alpha="x")
    refused(r"rank_pattern\.q_proj: a whole number is expected", rank_pattern={"q_proj": 1.5})
    refused(r"alpha_pattern: '\(' is no regular expression", alpha_pattern={"(": 1})
    refused(r"target_modules: a list of names is expected", target_modules=[1])
    refused(r"target_modules names fc1, and .* adapts no such module", target_modules=["q_proj", "v_proj", "fc1"])


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    base = _base(tmp_path)
    write_adapter(tmp_path / "one", SHAPES)
    path = tmp_path / "one/adapter_model.safetensors"
    clean = load_file(path)
    a, b = f"base_model.model.{Q}.lora_A.weight", f"base_model.model.{Q}.lora_B.weight"

    def refused(match: str, change: Callable[[dict[str, torch.Tensor]], object], of: Checkpoint = base) -> None:
        tensors = dict(clean)
        change(tensors)
        save_file(tensors, path)
        with pytest.raises(CheckpointError, match=rf"{path}:? {match}"):
            AdaptedCheckpoint(of, [str(tmp_path / "one")])

    refused(rf"{b} is there without its A", lambda tensors: tensors.pop(a))
    refused(
        rf"{a} has the shape \[4, 45\]; rank 3 and {Q}\.weight ask for \[3, 45\]",
        lambda t: t.update({a: torch.ones(4, 45)}),
    )
    refused(rf"{b} has the shape \[29, 3\]; .* \[30, 3\]", lambda t: t.update({b: torch.ones(29, 3)}))
    refused(rf"{a} is int32; adapters can be float32", lambda t: t.update({a: torch.ones(3, 45).int()}))
    refused("holds no tensors", lambda t: t.clear())
    for other in (
        f"base_model.model.{Q}.lora_magnitude_vector",
        "base_model.model.model.embed_tokens.lora_embedding_A",
        f"base_model.model.{Q}.lora_A.default.weight",
        "base_model.model.lm_head.weight",
        f"{Q}.lora_A.weight",
    ):
        refused(f"{other} is no A or B", lambda t, other=other: t.update({other: torch.ones(3, 45)}))

    def move(module: str) -> Callable[[dict[str, torch.Tensor]], None]:
        def change(tensors: dict[str, torch.Tensor]) -> None:
            tensors[f"base_model.model.{module}.lora_A.weight"] = torch.ones(3, 45)
            tensors[f"base_model.model.{module}.lora_B.weight"] = torch.ones(30, 3)

        return change

    missing = "model.layers.2.self_attn.q_proj"
    refused(rf".*{missing}\.lora_A\.weight adapts {missing}\.weight, which the model does not have", move(missing))
    refused(r".* which the model does not have", move("lm_head"))
    refused(r".* which the model does not have", move("model.norm"))
    refused(r".* adapts model\.embed_tokens alone, and the model has one weight", move("model.embed_tokens"))
    path.unlink()
    with pytest.raises(CheckpointError, match=r"has no adapter_model\.safetensors; save the adapter with safe_serial"):
        AdaptedCheckpoint(base, [str(tmp_path / "one")])
    with pytest.raises(CheckpointError, match=r"has no adapter_config\.json; set frontend\.adapters"):
        AdaptedCheckpoint(base, [str(tmp_path)])


def test_weights_that_come_quantized_are_not_adapted(tmp_path: Path) -> None:
    """The others of the same checkpoint are."""
    settings = {"quant_method": "gptq", "bits": 4, "group_size": 8}
    shape = {"hidden": 72, "intermediate": 104, "heads": 5, "kv_heads": 1, "head_dim": 8}
    write_vendor_checkpoint(
        tmp_path / "base", gptq(4, 8, sym=True, stored_less=1), settings, plain=("k_proj",), **shape
    )
    base = open_checkpoint(str(tmp_path / "base"), "huggingface")
    write_adapter(tmp_path / "q", {Q: (40, 72)}, target_modules=["q_proj"])
    with pytest.raises(CheckpointError, match=rf"lora_A\.weight adapts {Q}\.weight, which comes quantized; use"):
        AdaptedCheckpoint(base, [str(tmp_path / "q")])
    k = ATTENTION.format(0, "k")
    products = write_adapter(tmp_path / "k", {k: (8, 72)}, target_modules=["k_proj"])
    adapted = AdaptedCheckpoint(base, [str(tmp_path / "k")])
    _assert_is(adapted, f"{k}.weight", base.read(f"{k}.weight").astype(np.float64) + 4 * products[f"{k}.weight"])
    assert adapted.quantized == base.quantized
    np.testing.assert_array_equal(adapted.read(f"{Q}.weight", 3, 5), base.read(f"{Q}.weight", 3, 5))


def test_an_adapter_that_is_not_finite_is_named(tmp_path: Path) -> None:
    base = _base(tmp_path)
    write_adapter(tmp_path / "one", SHAPES)
    path = tmp_path / "one/adapter_model.safetensors"
    tensors = load_file(path)
    tensors[f"base_model.model.{Q}.lora_B.weight"][7, 1] = torch.nan
    save_file(tensors, path)
    adapted = AdaptedCheckpoint(base, [str(tmp_path / "one")])
    adapted.read(f"{Q}.weight", 0, 7)
    with pytest.raises(CheckpointError, match=rf"{Q}\.lora_B\.weight has values that are not finite"):
        adapted.read(f"{Q}.weight", 0, 8)
