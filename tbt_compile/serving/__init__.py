"""`tbt serve`: compiled models behind OpenAI's HTTP interface. Needs neither torch nor transformers."""
