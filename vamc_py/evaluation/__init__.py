"""Whether a compiled model is still the model: perplexity, KL divergence, choices, and the gate that compile runs.

Artifacts run through the runtime's executor; neither torch nor transformers is loaded. The compiler is imported inside
functions, where a configuration has to be compiled.
"""
