"""vamc-py: an open compiler for the Qwen family on Apache TVM Relax."""

__version__ = "0.1.0"
