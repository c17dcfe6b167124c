"""Zero-shot classification: traffic signs that were never seen, told by their attributes."""
