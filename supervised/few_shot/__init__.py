"""Few-shot classification: episodes of N ways and K shots, on Omniglot or on folders of images."""
