"""Measures vamc-py's runtime: ``python vamc_worker.py JOB`` (see job.py)."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from job import Prompts, decode_sample, prefill_sample, run, tell_first_token

Job = dict[str, Any]


def load(job: Job, *, slots: int) -> Any:
    """The executor; the files' hashes are checked at the first load only."""
    from vamc_py.runtime.executor import Executor

    return Executor.load(Path(job["model"]), slots=slots, threads=job["threads"])


def prefill(job: Job) -> list[Job]:
    """The prompt and its first, greedy token; the first prompt of each length warms up."""
    executor, prompts = load(job, slots=1), Prompts(job)
    samples = []
    for length in job["lengths"]:
        for repeat in range(job["repeats"] + 1):
            [ids] = prompts.draw(length)
            start = time.perf_counter()
            executor.feed(ids, slot=0, start=0).argmax()
            if repeat:
                samples.append(prefill_sample(length, time.perf_counter() - start))
    return samples


def decode(job: Job) -> list[Job]:
    """Greedy: each token is the most likely one after the one before."""
    executor, prompts = load(job, slots=max(batch for _, batch in job["cases"])), Prompts(job)
    samples = []
    for context, batch in job["cases"]:
        slots = np.arange(batch)
        for _ in range(job["repeats"]):
            asked = enumerate(prompts.draw(context, batch))
            tokens = np.array([executor.feed(ids, slot=slot, start=0).argmax() for slot, ids in asked])
            for position in range(context, context + 1 + job["steps"]):
                if position == context + 1:  # the first step of this size is not measured
                    start = time.perf_counter()
                tokens = executor.step(tokens, np.full(batch, position), slots, slots).argmax(axis=1)
            samples.append(decode_sample(context, batch, job["steps"], time.perf_counter() - start))
    return samples


def start(job: Job) -> list[Job]:
    """A text up to its first token, tokenizer and sampler included; the parent keeps the time."""
    from vamc_py.runtime import load as load_model

    model = load_model(job["model"], threads=job["threads"])
    model.generate(job["prompt"], max_new_tokens=1, greedy=True).result()
    tell_first_token()
    return []


if __name__ == "__main__":
    run({"prefill": prefill, "decode": decode, "batch": decode, "start": start})
