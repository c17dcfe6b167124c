"""Learning curves from different initializations, side by side."""

from leap_rl.evaluation.comparison import Comparison, check_starts, compare
from leap_rl.evaluation.figures import plot_comparison, plot_statistics

__all__ = ["Comparison", "check_starts", "compare", "plot_comparison", "plot_statistics"]
