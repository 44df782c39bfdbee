"""Speed and memory, measured side by side with what people use today.

`generation.py` runs one benchmark from start to end: every row has a process of its own (`worker.py`), and
the processes take turns, so that a slow moment of the machine falls on all of them.
"""
