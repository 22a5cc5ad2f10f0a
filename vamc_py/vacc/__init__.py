"""A compile for the vacc target behind its passes: the runstreams of all dies, their kernels and their parameters."""
