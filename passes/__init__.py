"""Graph passes over `torch.fx`, one per file; `pipeline.py` lists them in order (`tbt_compile.passes`)."""
