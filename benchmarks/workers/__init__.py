"""The programs that load an engine and measure it, each in its engine's own environment."""
