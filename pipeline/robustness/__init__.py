"""Robustness: how accuracy under a shift follows accuracy on the reference set, and what a mixture does to it.

    axes             probit, logit and linear axes of accuracy
    intervals        exact intervals of an accuracy, and intervals from bootstrap draws
    paired_accuracy  the accuracies of the same models on two sets of images
    resampling       the weight of each model in a bootstrap draw
    lines            least-squares lines on the axes
    trends           one line for each group of models, with bands, and the difference of two lines
    effective        effective and relative robustness
    ensembling       the mean of several models' outputs
    dilution         a mixture against its sources
    pooling          the weight of a source in a mixture
    forecast         the line of a mixture that is not yet trained

Pure functions on numpy arrays that do not depend on the ledger. Accuracies are fractions; a seed makes all draws
reproducible.
"""
