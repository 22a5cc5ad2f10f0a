"""The one notice about keys that do nothing in this build."""

from __future__ import annotations

from pathlib import Path

from vamc_py.config import load_text

PUBLIC_STYLE = """\
name: Some-8B
frontend:
  checkpoint: /models/Some-8B
  type: huggingface
  shape: {input_ids: [[1024], [2048]]}
  model_kwargs: {b2s: true, tp: 4, model_arch: vacc, align_qkv: true}
  quantize: {type: w8a16_gptq, device: cuda:5, calib_args: {wbits: 8}}
backend:
  type: tvm_vacc
  dtype: int8
  merge_params: true
  compile: {data_type: 0, gather_data_vccl_dsp_enable: true}
dataset: {type: huggingface, name: c4, nsamples: 128, seqlen: 1024}
workspace: {path: ./vacc_deploy, workers: 4, pyenv: {transformers: 4.51.3}, env_recheck: false}
"""


def notices(*overrides: str) -> tuple[str, ...]:
    return load_text(PUBLIC_STYLE, Path("c.yaml"), overrides).notices


def test_llvm_names_what_speaks_of_the_accelerator() -> None:
    assert notices("backend.type=tvm_llvm") == (
        "tvm_llvm w8a16_gptq does not use: frontend.model_kwargs.b2s, frontend.model_kwargs.tp, "
        "frontend.model_kwargs.align_qkv, frontend.quantize.device, backend.merge_params, "
        "backend.compile, workspace.workers, workspace.pyenv, workspace.env_recheck.",
    )


def test_rounding_to_nearest_needs_no_calibration() -> None:
    (notice,) = notices("backend.type=tvm_llvm", "frontend.quantize.type=w8a16")
    assert "frontend.quantize.device, frontend.quantize.calib_args, backend.merge_params" in notice
    assert " dataset," in notice


def test_calibration_runs_on_the_cpu() -> None:
    (notice,) = notices("backend.type=tvm_llvm", "frontend.quantize.device=cpu")
    assert "frontend.quantize.device" not in notice
    (notice,) = notices("backend.type=tvm_llvm", "frontend.quantize.type=w4a16")
    assert "frontend.quantize.calib_args" in notice
    rules = "frontend.quantize={type: w4a16, rules: [{match: '*.0.*', type: w4a16_awq}]}"
    (notice,) = notices("backend.type=tvm_llvm", rules)
    assert "dataset" not in notice


def test_vacc_uses_its_own_keys() -> None:
    assert notices() == (
        "tvm_vacc w8a16_gptq does not use: frontend.model_kwargs.b2s, frontend.quantize.device, backend.compile, "
        "workspace.workers, workspace.pyenv, workspace.env_recheck.",
    )


def test_vacc_uses_what_says_how_weights_are_kept() -> None:
    kept = "frontend.quantize={type: w4a16, group: 32, zeros: true, activation: int8_g64, wide: ['*.down_proj'], "
    rules = "rules: [{match: 'model.layers.0.*', type: w8a16}], lm_head: true}"
    (notice,) = notices(kept + rules, "workspace.enable_ir=true", "workspace.save_log=true")
    assert notice == (
        "tvm_vacc w4a16 does not use: frontend.model_kwargs.b2s, backend.compile, dataset, workspace.workers, "
        "workspace.pyenv, workspace.env_recheck."
    )


def test_gptq_without_data_is_rounding_on_vacc() -> None:
    rounding, unused = notices("dataset=null")
    assert rounding == (
        "frontend.quantize.type is w8a16_gptq and there is no section dataset to calibrate with: weights are rounded "
        "to nearest, as by w8a16."
    )
    assert unused.startswith("tvm_vacc w8a16 does not use: ")
    assert "frontend.quantize.calib_args" in unused
    assert len(notices("dataset=null", "backend.type=tvm_llvm")) == 1
    assert len(notices("dataset=null", "frontend.quantize.type=w4a16_gptq")) == 1


def test_parameters_are_merged_whatever_the_file_says() -> None:
    (notice,) = notices("backend.merge_params=false")
    assert "frontend.quantize.device, backend.merge_params, backend.compile" in notice


def test_figures_of_a_device() -> None:
    assumed = "backend.device={ddr_bytes_s: 2.0e+11}"
    assert notices(assumed) == notices()
    published, unused = notices("backend.device={clock_hz: 900000000, cores: 4, dies: 2}", "backend.target=va1")
    assert published == "backend.device changes what is published of VA1: dies (2), clock_hz (8.8e+08)."
    assert (unused,) == notices()
    (notice,) = notices("backend.type=tvm_llvm", assumed)
    assert "backend.merge_params, backend.device, backend.compile" in notice


def test_value_that_changes_nothing_is_not_named() -> None:
    (notice,) = notices("backend.type=tvm_llvm", "frontend.model_kwargs={tp: 1, b2s: false, model_arch: vacc}")
    assert "model_kwargs" not in notice


def test_gguf_holds_no_code() -> None:
    (notice,) = notices("frontend.type=gguf", "frontend.model_kwargs={model_arch: vacc, trust_remote_code: true}")
    assert "frontend.model_kwargs.model_arch, frontend.model_kwargs.trust_remote_code" in notice


def test_image_network() -> None:
    text = """\
name: net
frontend: {checkpoint: net.onnx, dtype: fp32, shape: {x: [1, 3, 8, 8]}}
backend: {dtype: int8, compile: {cluster_mode: 0}, quantize: {calibrate_mode: max}}
dataset: {type: tvm, path: images, sampler: {suffix: jpg}}
"""
    assert load_text(text, Path("c.yaml")).notices == (
        "tvm_vacc does not use: frontend.dtype, backend.compile, backend.quantize, dataset.sampler.",
    )
