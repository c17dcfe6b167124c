"""Learning curves from different initializations, side by side."""

from leap_rl.evaluation.comparison import Comparison, compare
from leap_rl.evaluation.figures import plot_comparison

__all__ = ["Comparison", "compare", "plot_comparison"]
