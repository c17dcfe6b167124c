"""Omniglot: alphabets as tasks (Flennerhag et al., ICLR 2019, appendix D)."""

from supervised.omniglot.alphabets import Alphabets, AlphabetTask, large_alphabets, split
from supervised.omniglot.data import Omniglot, OmniglotError, load_omniglot

__all__ = ["AlphabetTask", "Alphabets", "Omniglot", "OmniglotError", "large_alphabets", "load_omniglot", "split"]
