"""llama.cpp's converter for any tokenizer: ``python convert_gguf.py LLAMA_CPP ARGUMENTS…``, in its environment.

The converter knows pre-tokenizers by a hash and refuses all others. The benchmark's own tokenizer is none of them;
it gets llama.cpp's ``gpt-2``, since no measured figure depends on how text is split.
"""

from __future__ import annotations

import sys
from typing import Any

sys.path.insert(0, sys.argv.pop(1))

import convert_hf_to_gguf
from conversion import TextModel

_known = TextModel.get_vocab_base_pre


def _get_vocab_base_pre(self: Any, tokenizer: Any) -> str:
    try:
        return str(_known(self, tokenizer))
    except NotImplementedError:
        return "gpt-2"


TextModel.get_vocab_base_pre = _get_vocab_base_pre
convert_hf_to_gguf.main()
