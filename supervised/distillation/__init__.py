"""Distillation: a small network that also learns from a large one."""
