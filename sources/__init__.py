"""Published formats, one file per format, with a lazy registry.

A reader turns one open file into `pipeline.records.PublishedRow`s. `sources.world` is the
generated small web of the demo.
"""
