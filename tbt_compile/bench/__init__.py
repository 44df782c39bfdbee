"""Benchmarks of speed and memory against other engines.

`generation.py` runs the generation benchmark. Every row runs in a separate process (`worker.py`). The
processes take turns, which spreads noise on the machine over all rows.
"""
