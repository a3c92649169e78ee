"""Search algorithms over embeddings, hashes and images: exact, approximate, alignment, connected components."""
