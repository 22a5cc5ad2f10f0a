"""What the compiler did, for people: IR dumps, differences, kernels' sources, the HTML report."""
