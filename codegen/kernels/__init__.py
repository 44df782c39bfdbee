"""CPU kernels, in folders by role.

    strategy.py     the dispatch tables: which kernel multiplies which codes on which CPU, and why
    linear/         linear layers, one file per kernel, and embeddings, which read the same weights
    attention/      Q.K^T, P.V, fused attention, and the packed cache
    float_ops/      norms, activations, softmax, search over a vocabulary
    dot/            shared by linear layers and attention: quantize and pack rows, dot products of codes
    dsl/            the small TIR dialect that all kernels are written in

A builder is a function from a frozen spec to a `PrimFunc`. Leading dimensions are symbolic, so one function
serves every batch and length. Outputs come last (destination passing).
"""
