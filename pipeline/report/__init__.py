"""The report: one self-contained page that shows what an experiment found and where every number came from.

`schema` defines the numbers (the JSON beside the page has the same structure), `summary` states them in sentences, the
modules `*_section` arrange them for the page, `figures` draws them on top of `svg`, and `page.render` puts all of it
into one HTML document that runs no script and loads nothing.
"""
