"""CPU kernels, in folders by role.

    strategy.py     which kernel multiplies which codes on which CPU, and why
    linear/         linear layers, one file per kernel, and embeddings, which read the same weights
    attention/      Q.K^T, P.V, both in one, and the packed cache
    float_ops/      norms, activations, softmax, search over a vocabulary
    dot/            what linear layers and attention share: quantizing and packing rows, dot products of codes
    dsl/            the small TIR dialect that all of them are written in

Every builder is a function from a frozen spec to a `PrimFunc` whose leading dimensions are symbolic and whose
outputs come last (destination passing), so that one function serves every batch and length.
"""
