"""What a mixture is made of: parts, quotas, and differences between two mixtures."""
