"""Compilation targets: CPU names, features, instruction sets and register tiles. Free of torch."""
