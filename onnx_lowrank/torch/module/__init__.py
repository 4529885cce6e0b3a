"""An ONNX graph as a PyTorch module, and a module's weights back in the graph."""
