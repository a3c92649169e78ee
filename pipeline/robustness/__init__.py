"""Robustness: how accuracy under a shift follows accuracy on the reference set, and what a mixture does to it.

    intervals    exact intervals of an accuracy                 axes        probit, logit and linear axes
    evidence     what models answered on two sets of images     lines       least-squares lines on those axes
    resampling   which models and images a draw holds           bootstrap   intervals from draws
    trends       one line for each group of models, with bands, and the difference of two
    effective    effective and relative robustness              mixing      the mean of several models' outputs
    dilution     a mixture against its sources                  pooling     the weight of a source in a mixture
    forecast     the line of a mixture that is not yet trained

Pure functions on numpy arrays: nothing here knows the ledger. Accuracies are fractions, seeds make all draws
repeatable.
"""
