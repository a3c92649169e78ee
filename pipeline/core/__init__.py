"""Foundations: uids, digests, code versions, seeded sampling, processes, hardware."""
