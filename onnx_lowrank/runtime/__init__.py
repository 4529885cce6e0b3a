"""All that runs a network: sessions, providers, inputs, and how long it takes.

- network.py: a model that is open, with its inputs and layers
- inputs.py: its inputs, completed by the user's shapes and constants
- session.py: a model ready to run in onnxruntime, and the choice of a provider
- provider.py, device.py: where it runs; what that is called, how much memory is free there
- library.py, ort_values.py: onnxruntime itself and its tensors
- observed_shapes.py: shapes of inner tensors
- timing.py: models timed in turns
- latency.py, layer_latency.py, latency_table.py: milliseconds of a conversion and of single layers, and their file
- memory.py, progress.py, stopwatch.py: memory that may be used, progress, seconds by stage
"""
