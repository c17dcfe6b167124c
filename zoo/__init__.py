"""
Pretrained initializations, and the code that lists, loads, checks and shares them, will live here.

Nothing of that is here yet. What works today is an initialization of your own: ``trainer.initialization.save(folder)``
writes one, ``leap_rl.Initialization.load(folder).apply_to(model)`` starts a model from it.
"""
