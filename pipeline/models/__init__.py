"""CLIP models: loading, embedding, checkpoints."""
