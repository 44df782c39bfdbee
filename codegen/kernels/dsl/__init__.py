"""The small TIR dialect that kernels are written in."""
