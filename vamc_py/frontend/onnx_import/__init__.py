"""From the ONNX graph of a decoder to the Relax program that the raise passes know."""
