"""Several data sets at once in one network."""
