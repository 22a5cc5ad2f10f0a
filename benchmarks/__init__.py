"""The benchmark against other engines: ``python benchmarks/run.py --help``, explained in docs/performance.md."""
