"""Multi-CV: eight data sets of their own kind as tasks (Flennerhag et al., ICLR 2019, section 4.2 and appendix E)."""
