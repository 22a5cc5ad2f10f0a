"""Kernels of the vacc device model in TIR, and how operators become commands of its runstreams."""
