"""The keys under which a job is stored (`partitions`), and the classes that declare formats (`wire`).

The stored formats are in `encoding`, and the arguments and replies of scripts are in `words`.
"""
