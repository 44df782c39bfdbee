"""Data sets of text pairs, tokenizers, and padded batches."""
