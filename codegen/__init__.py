"""From packed codes to CPU code through TVM (`tbt_compile.codegen`)."""
