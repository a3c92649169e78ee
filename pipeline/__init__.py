"""The core library of Cuvée: identity, ledger, shards, models, mixtures, training, evaluation, report.

Nothing here depends on a published format, a filter or a job: `sources`, `filters` and `jobs` import this layer,
and this layer imports none of them.
"""
