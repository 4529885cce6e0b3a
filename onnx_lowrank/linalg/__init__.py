"""Linear algebra on arrays of NumPy and of PyTorch, and arrays too large for memory."""
