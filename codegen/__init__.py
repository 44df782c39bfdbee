"""Code generation through TVM: from lowered graphs on packed codes to CPU libraries."""
