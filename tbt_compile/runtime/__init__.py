"""Runtime of compiled models: needs NumPy and TVM's runtime library, but not torch."""
