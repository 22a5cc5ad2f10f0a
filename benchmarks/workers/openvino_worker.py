"""Measures OpenVINO GenAI, in its own environment: ``python openvino_worker.py JOB`` (see job.py)."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import openvino as ov
import openvino_genai as genai
from job import Prompts, decode_sample, prefill_sample, run, tell_first_token

Job = dict[str, Any]


def load(job: Job) -> Any:
    """The pipeline with its defaults (paged attention, 8-bit KV cache, activations quantized in groups)."""
    return genai.LLMPipeline(job["model"], "CPU", INFERENCE_NUM_THREADS=job["threads"])


def generate(pipeline: Any, ids: Any, tokens: int) -> Any:
    """Greedy generation of exactly ``tokens`` for each of the prompts int64[batch, length]."""
    inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
    return pipeline.generate(inputs, max_new_tokens=tokens, do_sample=False, ignore_eos=True)


def prefill(job: Job) -> list[Job]:
    """A fresh prompt for each sample; the first of each length warms up."""
    pipeline, prompts = load(job), Prompts(job)
    samples = []
    for length in job["lengths"]:
        generate(pipeline, prompts.draw(length), 1)
        for _ in range(job["repeats"]):
            ids = prompts.draw(length)
            start = time.perf_counter()
            generate(pipeline, ids, 1)
            samples.append(prefill_sample(length, time.perf_counter() - start))
    return samples


def decode(job: Job) -> list[Job]:
    """The time between the first token and the last, by the pipeline's own clock."""
    pipeline, prompts = load(job), Prompts(job)
    samples = []
    for context, batch in job["cases"]:
        generate(pipeline, prompts.draw(context, batch), 2)
        for _ in range(job["repeats"]):
            result = generate(pipeline, prompts.draw(context, batch), job["steps"] + 1)
            times = result.perf_metrics.raw_metrics.m_new_token_times  # milliseconds
            samples.append(decode_sample(context, batch, job["steps"], (times[-1] - times[0]) / 1e3))
    return samples


def start(job: Job) -> list[Job]:
    """A text up to its first token; the parent keeps the time."""
    pipeline = genai.LLMPipeline(job["model"], "CPU", INFERENCE_NUM_THREADS=job["threads"])
    pipeline.generate(job["prompt"], max_new_tokens=1, do_sample=False, ignore_eos=True, apply_chat_template=False)
    tell_first_token()
    return []


if __name__ == "__main__":
    run({"prefill": prefill, "decode": decode, "batch": decode, "start": start})
