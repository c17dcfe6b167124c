"""Omniglot: alphabets as tasks (Flennerhag et al., ICLR 2019, appendix D)."""
