"""What crosses from one stage to another: layers, plans, sampled rows, factors, and what they cost."""
