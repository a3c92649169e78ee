"""The report: one self-contained page that shows what an experiment found and where every number came from.

`shape` names the numbers (the JSON beside the page has the same shape), `funnel`, `accuracy`, `trends` and
`closeup` arrange them, `figures` and `diagrams` draw them on top of `svg`, and `page.render` puts all of it into
one HTML document that runs no script and loads nothing.
"""
