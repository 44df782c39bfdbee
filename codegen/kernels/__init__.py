"""CPU kernels, one operator family per file.

Every builder is a function from a frozen spec to a `PrimFunc` whose leading dimensions are symbolic and whose
outputs come last (destination passing), so that one function serves every batch and length.
"""
