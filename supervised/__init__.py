"""
The core of leap_rl on classification. ``supervised.omniglot`` has alphabets as tasks, which ``MetaTrainer``
meta-trains like any others::

    from leap_rl import Leap, MetaTrainer
    from supervised.omniglot.alphabets import Alphabets, split

    pretraining, held_out = split("data/omniglot", n_pretraining=20, seed=0)
    trainer = MetaTrainer(Alphabets("data/omniglot", pretraining, run_seed=0), Leap(metric="length"), meta_batch_size=5)
    trainer.learn(meta_steps=60)
"""
