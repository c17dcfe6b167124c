"""Adaptation without target labels: learn a labelled source such that an unlabelled target is classified, too."""
