"""
The core of leap_rl on classification: tasks, networks, Omniglot, Multi-CV and their baselines will live here.

Nothing of that is here yet. What works today for supervised problems is ``leap_rl.core``: a ``GradientPath`` follows
any torch training loop, and a ``Task`` of your own can be meta-trained with ``MetaTrainer``.
"""
