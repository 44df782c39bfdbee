"""Running compiled models: needs numpy and TVM, not torch."""
