"""Kernels for x86-64 with AVX-512 VNNI, as TIR; ``select`` says which of them serves a call."""
