"""Linear layers: one kernel, several strategies for its dot products."""
