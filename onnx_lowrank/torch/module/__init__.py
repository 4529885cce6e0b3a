"""An ONNX graph as a PyTorch module, and a module's weights back in the graph.

::

    to_module.py     graph -> module: `to_torch`
    from_module.py   weights of the module -> the same graph: `from_torch`
    export.py        graph -> program of torch.export: `export_torch`
    weights.py       which tensors are trained, and under which names
    layers.py        operators with weights; resize.py, indexing.py: a few others; library.py: all the rest
    sizes.py         arithmetic of shapes, which stays outside PyTorch
    attributes.py    attributes of a node as Python values
"""
