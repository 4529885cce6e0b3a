"""Refine a converted network block by block: the factors of a few layers together, toward the original's block."""
