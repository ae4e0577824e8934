"""From n-grams to rows: hashing, layout, and the rows on disk. No torch on this floor."""
