"""How the operators of a step become commands of a runstream: tiles, transfers, kernels, places and waits."""
