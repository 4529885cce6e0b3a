"""Fine-tuning: the converted network learns from the original.

::

    settings.py       every option
    finetune.py       `finetune`, the epochs; result.py: what it returns
    setup.py          opens networks and data; agreement.py: checks that PyTorch computes what onnxruntime does
    dataset.py        training samples and held-out samples; augment.py: flips and shifts
    objective.py      the loss and the metrics; comparison.py: which tensors the loss compares
    trainer.py        the training loop and the evaluation
    muon.py           the optimizer; learning_rate.py: the search for its learning rate
    normalize.py      batch normalization while training; balance.py: factors scaled to the same size
    checkpoint.py     the file to resume from
"""
