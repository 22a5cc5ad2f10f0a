"""Errors that are the input's fault: one clear sentence, exit code 2, no traceback."""


class UserError(Exception):
    """Bad input. The message says where the fault is, what it is, and what to do.

    Every other exception that reaches the command line is a fault of vamc-py: traceback and exit code 1.
    """


class ConfigError(UserError):
    """Faults in a YAML file, all of them at once, each as ``file:line:column: path: what is wrong``."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or whose tensors do not fit the model; names the file and the tensor."""


class ArtifactError(UserError):
    """An artifact that is damaged, of another format version, or not for this machine."""
