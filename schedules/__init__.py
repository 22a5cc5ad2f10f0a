"""Kernels by target, installed as ``vamc_py.schedules``."""

if __name__ == "schedules":
    raise ImportError("import the schedules as vamc_py.schedules: under the bare name their objects would exist twice")
