"""Reading checkpoints whose weights are ternary or binary already, so that nothing is trained."""
