"""What a model is made of and whether its compiled form computes the same: `summary` and `verify`."""
