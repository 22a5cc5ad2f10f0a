"""The sections ``dataset`` (calibration data) and ``graph`` (what is appended to a network)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vamc_py.config.section import Section, on

_Count = Annotated[int, Field(ge=1)]


class Sampler(Section):
    """Which files of an image folder are taken."""

    suffix: str | None = Field(default=None, description="File ending, without the dot.")
    get_data_num: _Count | None = Field(default=None, description="How many files.")


class ProcessOp(Section):
    """One step of image preprocessing: its `type`, and the keys that this type knows."""

    type: str = Field(description="`DecodeImage`, `Resize`, `CenterCrop`, `CvtColor`, `Normalize`, `ToTensor`, ...")
    backend: str | None = Field(default=None, description="Library that does it.")
    cv2_flags: int | None = Field(default=None, description="DecodeImage: OpenCV's flags.")
    size: tuple[int, ...] | None = Field(default=None, description="Resize: height and width; -1 is free.")
    adaptive_side: str | None = Field(default=None, description="Resize: the side that is fitted.")
    interpolation: str | None = Field(default=None, description="Resize: kind of interpolation.")
    crop_size: tuple[int, ...] | None = Field(default=None, description="CenterCrop: height and width.")
    code: str | None = Field(default=None, description="CvtColor: OpenCV's conversion.")
    pad_to_square: bool | None = Field(default=None, description="Pad: to a square.")
    index: int | None = Field(default=None, description="ChannelSplit: the channel kept.")
    div255: bool | None = Field(default=None, description="Normalize: divide by 255 first.")
    norm_type: str | None = Field(default=None, description="Normalize: named normalization.")
    mean: tuple[float, ...] | None = Field(default=None, description="Normalize: mean of each channel.")
    std: tuple[float, ...] | None = Field(default=None, description="Normalize: standard deviation of each channel.")


class Dataset(Section):
    """Calibration data. Rounding to nearest (`w8a16`) needs none."""

    type: Literal["huggingface", "tvm"] | None = Field(
        default=None, description="`huggingface`: text for a language model; `tvm`: image or array files."
    )
    name: str | None = Field(
        default=None,
        description="What the file holds, in capitals or not: `alpaca` (a JSON list with instruction, input, output), "
        "`c4` (JSON lines, also gzipped), `ceval` (the zip of csv files; its val split is left for the evaluation), "
        "`sharegpt` (a JSON list with conversations), `text` (plain text), `jsonl` (JSON lines with `text_key`). "
        "When absent, the file's ending and first record tell.",
    )
    path: str | None = Field(
        default=None, description="File, or folder with such files; relative to the current directory."
    )
    nsamples: _Count | None = Field(default=None, description="Number of samples; null is 128.")
    seqlen: _Count | None = Field(
        default=None,
        description="Tokens of one sample; null is 1024 for `c4`, 128 for `ceval` and 512 for the others. Texts that "
        "are longer give a random window, shorter ones are put together.",
    )
    seed: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Of the random choice of texts and windows; null is 0. The same seed gives the same."
    )
    text_key: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="The key under which records of `jsonl` and `c4` have their text; null is `text`."
    )
    sampler: Sampler | None = Field(default=None, description="Which image files.", json_schema_extra=on())
    process_ops: tuple[ProcessOp, ...] | None = Field(
        default=None, description="Image preprocessing.", json_schema_extra=on()
    )


class ExtraOps(Section):
    """An operator appended to a network that is not a language model."""

    type: str | None = Field(default=None, description="`softmax`, `yolov5_nms`, ...")
    params: dict[str, object] = Field(default_factory=dict, description="Its parameters, whatever they are.")
    extra_ops: None = Field(default=None, description="Found empty in a public file.")


class Graph(Section):
    """Changes to the graph of a network that is not a language model."""

    extra_ops: ExtraOps | None = Field(default=None, description="An operator appended at the end.")
