"""What code is generated for: CPU names, features, instruction sets, register tiles. Needs no torch."""
