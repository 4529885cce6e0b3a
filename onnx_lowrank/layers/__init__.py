"""What the stages share: layers, plans, samples, factors, and what they cost.

- layer.py: a layer that can be factorized, or one that is left as it is
- channel_group.py: channels that one layer reads and that may be left out
- activation.py, smooth.py: the function behind a layer, in straight pieces or curved
- plan.py: the factorization and ranks of every layer
- chain_shapes.py, cost.py: the convolutions of a planned chain; their multiply-adds and parameters
- responses.py: sampled rows of a layer, for the solver
- rank_losses.py, width_losses.py: the error that every pair of ranks, and every number of channels read, causes
- factors.py, random_factors.py: a solved chain of convolutions; one of random weights, to be timed
- input_statistics.py: statistics of the training images, for synthetic ones
"""
