"""Builds the site of the documentation: `python -m scripts.site`, which is `make site`.

`staging` puts the pages together, `reference` makes those of the API from docstrings, Zensical builds the
site, `texts` writes it once more as plain text, `checks` reads what was built.
"""
