"""From lowered FX graphs to Relax modules whose calls are kernels."""
