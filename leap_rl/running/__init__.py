"""
What running takes: engines, checkpoints, files, logs, progress, memory.

Knows no Leap, no environment and no data set.
"""
