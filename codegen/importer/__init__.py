"""The importer: lowered FX graphs to Relax modules that call kernels."""
