"""Measures ONNX Runtime GenAI, in its own environment: ``python onnxruntime_worker.py JOB`` (see job.py)."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import onnxruntime_genai as genai
from job import Prompts, decode_sample, prefill_sample, run, tell_first_token

Job = dict[str, Any]


def load(job: Job) -> Any:
    """The model with the wanted number of threads."""
    config = genai.Config(job["model"])
    options = {"intra_op_num_threads": job["threads"]}
    config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
    return genai.Model(config)


def begin(model: Any, ids: Any, tokens: int) -> Any:
    """A generator that has read the prompts int64[batch, length] and may give ``tokens`` for each."""
    batch, length = ids.shape
    parameters = genai.GeneratorParams(model)
    # min_length keeps it from stopping at an end token.
    parameters.set_search_options(
        batch_size=batch, max_length=length + tokens, min_length=length + tokens, do_sample=False
    )
    generator = genai.Generator(model, parameters)
    generator.append_tokens(ids.astype(np.int32))
    return generator


def prefill(job: Job) -> list[Job]:
    """The prompt and its first token; the first prompt of each length warms up."""
    model, prompts = load(job), Prompts(job)
    samples = []
    for length in job["lengths"]:
        begin(model, prompts.draw(length), 1).generate_next_token()
        for _ in range(job["repeats"]):
            ids = prompts.draw(length)
            start = time.perf_counter()
            begin(model, ids, 1).generate_next_token()
            samples.append(prefill_sample(length, time.perf_counter() - start))
    return samples


def decode(job: Job) -> list[Job]:
    """The tokens after the first one."""
    model, prompts = load(job), Prompts(job)
    samples = []
    for context, batch in job["cases"]:
        for _ in range(job["repeats"]):
            generator = begin(model, prompts.draw(context, batch), job["steps"] + 2)
            generator.generate_next_token()  # from the prompt's logits
            generator.generate_next_token()  # the first step of this size
            start = time.perf_counter()
            for _ in range(job["steps"]):
                generator.generate_next_token()
            samples.append(decode_sample(context, batch, job["steps"], time.perf_counter() - start))
    return samples


def start(job: Job) -> list[Job]:
    """A text up to its first token; the parent keeps the time."""
    model = load(job)
    ids = genai.Tokenizer(model).encode(job["prompt"])
    begin(model, np.asarray(ids, np.int32)[None, :], 1).generate_next_token()
    tell_first_token()
    return []


if __name__ == "__main__":
    run({"prefill": prefill, "decode": decode, "batch": decode, "start": start})
