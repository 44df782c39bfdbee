"""Model folders on disk: manifest, tensor files, and writes that happen as a whole."""
