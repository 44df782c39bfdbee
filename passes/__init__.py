"""Graph passes over `torch.fx`, one pass per file; the `pipeline.py` of each folder lists them in order."""
