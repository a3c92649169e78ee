"""The ground of Cuvée: identity, ledger, shards, models, mixtures, training, evaluation, report.

Nothing here knows a published format, a filter or a job: `sources`, `filters` and `jobs` import this floor,
and this floor imports none of them.
"""
