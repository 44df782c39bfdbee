"""Text pairs and tokenizers: what training and evaluation read."""
