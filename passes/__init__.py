"""The compiler passes, one a file, installed as ``vamc_py.passes``."""

if __name__ == "passes":
    raise ImportError("import the passes as vamc_py.passes: under the bare name their classes would exist twice")
