"""`tbt report`: a model's graph, layers, codes, benchmarks and samples as one HTML page.

`collect` gathers what the page shows, `page` writes it.
"""
