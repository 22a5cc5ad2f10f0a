"""Writing a model as ONNX graphs: prefill and decode, for users of the closed vamc toolchain and of ONNX runtimes."""
