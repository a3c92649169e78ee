"""Published formats, one file for each, behind one lazy registry.

A reader turns one open file into `pipeline.records.PublishedRow`s. `sources.world` is the demo's own small web.
"""
