"""The parameter plan, which passes write, and its execution over a checkpoint's tensors."""
