"""Text -> ids -> counts: reading corpora, tokenizers, the token map, counting, and the n-gram artifact."""
