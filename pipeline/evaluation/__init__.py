"""Evaluation of models: zero-shot, probes, retrieval, corruptions, metrics, predictions."""
