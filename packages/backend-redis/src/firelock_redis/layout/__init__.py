"""Where a job is in Redis (`partitions`), and how each format there is declared (`wire`).

What is stored is in `encoding`, what scripts are told and reply in `words`.
"""
