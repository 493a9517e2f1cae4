"""Build the documentation site: `python -m scripts.site`, or `make site`.

`staging` collects the pages, `reference` creates the API reference from docstrings, Zensical builds the site,
`texts` writes the pages as plain text too, and `checks` checks the built site.
"""
