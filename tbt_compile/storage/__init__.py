"""Model folders on disk: manifests, tensor files and atomic writes."""
