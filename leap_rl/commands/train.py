"""``leap-rl train``"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.vec_env import VecEnv
from torch.utils.tensorboard import SummaryWriter

from leap_rl.agents import ActorMimic, ObservedTraining, observed_algorithm
from leap_rl.agents.learning import is_finite, learns
from leap_rl.agents.tasks import check_learns
from leap_rl.atari import POOLS, game_name, make_atari_env, rom_id
from leap_rl.atari.games import unseen_games
from leap_rl.commands.initializations import check_is_for_vectors, load_initialization
from leap_rl.commands.run_folder import begin, check_same_settings, print_commands, saved_agents
from leap_rl.commands.saved_runs import agent_of, new_model, settings_of
from leap_rl.commands.score_bar import ScoreBar
from leap_rl.commands.tasks import algorithm, algorithm_kwargs, atari_kwargs, make_env, policy
from leap_rl.core import Initialization, NoPretraining, Strategy, TowardsStart, blocks_of, read_strategies
from leap_rl.running.files import read_json, write_text
from leap_rl.running.logger import put_in_order
from leap_rl.running.progress import JobsProgress
from leap_rl.settings import CompareSettings, TrainSettings, as_dict, write_settings
from leap_rl.transfer import FineTune, FreezeEncoder, SlowEncoder, WatchTransfer
from leap_rl.transfer.saved_agent import AgentError, SavedAgent, save_agent

_log = logging.getLogger(__name__)

MAY_CHANGE = {"timesteps", "save-freq"}

WATCHED = "watched.json"
"""The comparison that a run is watched against, as it was when the run began."""

START = "start"
"""The network that a run began with, where its strategy must know it to go on."""

LOGS = 100
"""A run logs at least so often, if it has as many rollouts."""


class SaveAgent(BaseCallback):
    """
    Save the agent from time to time; a file appears whole or not at all, and the last two stay.

    :param folder: of the files, which are named by their steps
    :param every: steps
    """

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__()
        self.folder = folder
        self.every = every

    def _on_training_start(self) -> None:
        self.next = self.num_timesteps + self.every

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.next:
            self.next += self.every
            self.save(self.model)
        return True

    def save(self, model: BaseAlgorithm) -> bool:
        """
        :param model: that is kept, if it has not diverged
        :return: whether it was
        """
        if not is_finite(model):
            return False
        save_agent(model, self.folder / f"{model.num_timesteps:012d}.zip")
        for old in saved_agents(self.folder)[:-2]:
            old.unlink()
        return True


def go_on(model: BaseAlgorithm, saved: list[Path]) -> Path:
    """
    Give a model the last agent, or the one before where that is damaged.

    :param model: made with the settings of the run
    :param saved: from first to last
    :return: which it was
    :raises ValueError: if all are damaged, or do not fit
    """
    errors: list[AgentError] = []
    for file in reversed(saved):
        try:
            SavedAgent(file).resume(model, steps=int(file.stem))
        except AgentError as error:
            errors.append(error)
            continue
        for found in errors:
            damaged = found.file.replace(found.file.with_suffix(".damaged"))
            _log.warning("%s; it is %s now, and %s is gone on from", found, damaged.name, file.name)
        return file
    raise ValueError(
        f"{'; '.join(map(str, errors))}. The run begins again where {saved[0].parent} is removed, and agent.zip"
    )


def train(settings: TrainSettings, folder: Path, resume: bool) -> None:
    """
    Train an agent, and leave ``agent.zip`` in the run folder.

    :param settings: of the run
    :param folder: of a new run, or of the one to resume; nobody else writes to it
    :param resume: whether it is there already
    :raises ValueError: for what can't be trained
    """
    # A run that has begun needs neither the initialization nor the comparison any more.
    strategies = read_strategies(settings.finetune) if settings.finetune else []
    for option, given in (("--transfer-layers", settings.transfer_layers), ("--head", settings.head)):
        if given and settings.init is None:
            raise ValueError(f"{option} says what is taken of an initialization: give one with --init")
    begun = folder if resume else None
    saved = saved_agents(begun / "agents") if begun else []
    if begun and not saved and (begun / "agent.zip").exists():
        raise ValueError(
            f"{begun} has no agent in agents/ to go on from, but an agent.zip: train in another folder; it begins "
            "again where that is removed, too"
        )
    initialization = None if settings.init is None or saved else load_initialization(settings.init)
    of_encoder = settings.freeze_encoder_steps > 0 or settings.encoder_lr_factor != 1
    policy_name = policy(settings.agent, settings.env)
    if initialization is not None and policy_name.startswith("Mlp"):
        check_is_for_vectors(settings.init, settings.env, initialization)
    if of_encoder and policy_name.startswith("Mlp"):
        raise ValueError("--freeze-encoder-steps and --encoder-lr-factor need an encoder, and this network has none")
    watched = from_scratch = None
    if settings.watch is not None:
        kept = begun and begun / WATCHED
        watched = kept if kept and kept.is_file() else settings.watch / "results.json"
        from_scratch = random_starts(watched, settings)
    kwargs = algorithm_kwargs(settings.agent, policy_name)
    kind = observed_algorithm(algorithm(settings.agent))  # SB3's bits in less time, and what it saves opens in SB3's
    check_learns(kind, settings.timesteps, kwargs)
    if saved and kind.replays():
        raise ValueError(
            f"{folder} can't be gone on with: the replay buffer of {settings.agent.algorithm} is not saved with its "
            f"agents. The last of them is {saved[-1]}; another folder begins again"
        )
    if resume:
        check_same_settings(folder, "train", settings, MAY_CHANGE)
    # Of its teachers a student knows the games now; when it has learned their folders may be gone.
    unseen = unseen_games([settings_of(Path(teacher))[0] for teacher in settings.teachers])[0]
    env: VecEnv
    teachers: list[BaseAlgorithm] = []
    if settings.teachers:
        kind, what = ActorMimic, f"to act as {', '.join(settings.teachers)} do"
        env, teachers = school(settings)
    else:
        what = f"on {settings.game or settings.env}"
        env = make_env(settings.game, settings.env, settings.agent.n_envs, settings.atari, settings.seed)
    try:
        model: ObservedTraining
        if teachers:
            seeded: dict[str, Any] = {"seed": settings.seed, "device": settings.device}
            model = ActorMimic(policy_name, env, teachers, learner=NoPretraining(), **seeded, **kwargs)
        else:
            of = (settings.agent, env, settings.game, settings.env, settings.timesteps)
            model = new_model(*of, settings.seed, settings.device)
        held: list[FineTune] = [FineTune(*strategies)] if strategies else []
        if settings.freeze_encoder_steps:
            held.append(FreezeEncoder(settings.freeze_encoder_steps))
        if settings.encoder_lr_factor != 1:
            held.append(SlowEncoder(settings.encoder_lr_factor))
        for each in held:
            each.check(model, settings.timesteps)
        if held:
            FineTune(*(strategy for each in held for strategy in each.strategies)).check(model)
        if saved:
            _remember_start(strategies, model, folder / START)
            go_on(model, saved)
            for each in held:
                each.resume(model)
            if model.num_timesteps >= settings.timesteps:
                agent = folder / "agent.zip"
                if _steps_of(agent) != model.num_timesteps:  # interrupted between the two
                    save_agent(model, agent)
                    _say_what_next(folder, settings, unseen)
                    return
                raise ValueError(
                    f"{folder} is finished, with {model.num_timesteps:,} steps: --timesteps with more of them goes on"
                )
            # Of the seed of the run alone its first episodes would come again.
            drawn = np.random.SeedSequence([settings.seed, model.num_timesteps]).generate_state(1)
            model.set_random_seed(int(drawn[0]) >> 1)
            print(f"Going on in {folder} from the agent saved after {model.num_timesteps:,} steps, with new episodes")
        else:
            if initialization is not None:
                initialization.apply_to(model, settings.head, settings.transfer_layers or None)
            print(f"Training {settings.agent.algorithm} {what} in {folder}", flush=True)
        model.print_arithmetic()
        left = settings.timesteps - model.num_timesteps
        if left % model.rollout_steps:
            whole = -(-left // model.rollout_steps) * model.rollout_steps
            print(f"It learns {whole:,} steps, not {left:,}: its rollouts have {model.rollout_steps:,}", flush=True)
        saving = SaveAgent(folder / "agents", settings.save_freq)
        callbacks: list[BaseCallback] = [saving, *held]
        if from_scratch is not None:
            callbacks.append(from_scratch)
        begin(folder, "train", settings, MAY_CHANGE)
        write_settings(folder, "train", settings)
        if not saved and any(isinstance(strategy, TowardsStart) for strategy in strategies):
            Initialization.of(model, "all").save(folder / START)
        if watched is not None and watched != folder / WATCHED:
            write_text(folder / WATCHED, watched.read_text())
        model.set_logger(logger_from(folder / "tensorboard", model.num_timesteps))
        # SB3 logs every 100 rollouts by default, which is never in a short run; with a replay buffer every 4 episodes.
        rollouts = settings.timesteps // model.rollout_steps
        log_interval = 4 if kind.replays() else max(1, min(100, rollouts // LOGS))
        try:
            with JobsProgress() as bar:
                callbacks.append(ScoreBar(bar, settings.game or settings.env or "a student", left))
                went_well = learns(model, left, callbacks, log_interval, reset_num_timesteps=not saved)
        except KeyboardInterrupt:
            said = "the agent is saved" if saving.save(model) else "the agent has diverged, and is not saved"
            print(f"\nInterrupted after {model.num_timesteps:,} steps; {said}.", end=" ")
            if kind.replays():
                print("Its replay buffer is not, so it can't be gone on with")
            else:
                print("To go on:")
                print_commands(["leap-rl", "train", "--resume", folder])
            raise
        if not (went_well and is_finite(model)):
            before = saved_agents(folder / "agents")[-1:]
            last_one = "".join(f". The last agent before that is {agent}" for agent in before)
            raise RuntimeError(
                f"the training diverged within {model.num_timesteps:,} steps: try a smaller --agent.learning-rate in "
                f"another folder{last_one}"
            )
        saving.save(model)
        save_agent(model, folder / "agent.zip")
        if not model.ep_info_buffer:
            print(f"No episode ended in its {model.num_timesteps:,} steps: more --timesteps show what it scores")
    finally:
        env.close()
    _say_what_next(folder, settings, unseen)


def school(settings: TrainSettings) -> tuple[VecEnv, list[BaseAlgorithm]]:
    """
    :param settings: with teachers
    :return: environments of all their games, which take turns among ``n_envs``, and the teacher of each
    :raises ValueError: for a folder without an agent, agents of other preprocessing, or too few environments
    """
    stored = [settings_of(Path(folder)) for folder in settings.teachers]
    games = [game for game, *_ in stored]
    for folder, (game, env_id, _, atari) in zip(settings.teachers, stored, strict=True):
        if not game:
            raise ValueError(f"{folder} learned {env_id}, which is no Atari game: it can't teach here")
        if game in POOLS:
            raise ValueError(f"{folder} learned the pool {game}: a teacher has one game")
        if atari != settings.atari:
            raise ValueError(f"{folder} saw its game with {atari_kwargs(atari)}: give --atari.* the same")
        if not (Path(folder) / "agent.zip").is_file():
            raise ValueError(f"{folder} has no agent.zip yet: leap-rl train --resume {folder} finishes it")
    n_envs = settings.agent.n_envs
    if n_envs % len(games):
        raise ValueError(f"agent.n-envs is {n_envs}: {len(games)} teachers need a multiple of {len(games)}")
    shared = atari_kwargs(settings.atari)
    teachers: list[BaseAlgorithm] = []
    for folder, (game, _, agent, _) in zip(settings.teachers, stored, strict=True):
        plays = make_atari_env(game, 1, **shared)
        teachers.append(agent_of(Path(folder) / "agent.zip", agent, plays, game, "", device=settings.device))
    several = len({rom_id(game) for game in games}) > 1
    env = make_atari_env(games, n_envs, seed=settings.seed, full_action_space=several, **shared)
    return env, [teachers[i % len(games)] for i in range(n_envs)]


def _steps_of(agent: Path) -> int | None:
    """``None`` of one that is not there, or damaged."""
    try:
        return SavedAgent(agent).steps()
    except (OSError, ValueError):
        return None


def _remember_start(strategies: Sequence[Strategy], model: BaseAlgorithm, start: Path) -> None:
    """
    Let those strategies that hold on to the start of a run know it, though another process began the run.

    :param model: made with the settings of the run; it is given the start
    :raises InitializationError: if it is damaged
    """
    for strategy in strategies:
        if isinstance(strategy, TowardsStart):
            Initialization.load(start).apply_to(model)
            strategy.bind(blocks_of(model))
            strategy.begin()


def _say_what_next(folder: Path, settings: TrainSettings, unseen: str) -> None:
    print(f"The agent is in {folder / 'agent.zip'}. Next:")
    tensorboard = ["tensorboard", "--logdir", folder / "tensorboard"]
    if settings.teachers:  # it was learned for its encoder
        print_commands(
            ["leap-rl", "compare", "--games", unseen, "--starts", folder / "agent.zip", "random"],
            tensorboard,
        )
        return
    print_commands(["leap-rl", "evaluate", folder], tensorboard)


def random_starts(file: Path, settings: TrainSettings) -> WatchTransfer:
    """
    :param file: ``results.json`` of a ``leap-rl compare``
    :param settings: of the training that is watched
    :return: that compares the training with the comparison's random starts on the same game
    :raises ValueError: if there are none of that game and that agent, or too few
    """
    task = game_name(settings.game) if settings.game else settings.env
    if not file.is_file():
        raise ValueError(f"{file.parent} is no finished comparison: {file.name} is missing; leap-rl compare makes one")
    compared = read_json(file, "leap-rl compare --resume writes it again")
    try:
        theirs, results = compared["settings"], compared["results"]
        if "random" not in results.get(task, {}):
            raise ValueError(f"{file.parent} has no random starts on {task}: it compared {', '.join(results)}")
        curves = [run["curve"] for run in results[task]["random"] if not run.get("diverged")]
        from_scratch = [(np.array(curve["steps"]), np.array(curve["values"])) for curve in curves]
        for section in ("agent", "atari"):
            own, defaults = as_dict(settings)[section], as_dict(CompareSettings())[section]
            if {**defaults, **theirs[section]} != own:  # a setting that is younger than the comparison had its default
                raise ValueError(f"{file.parent} compared other {section} settings: {theirs[section]}, here {own}")
        return WatchTransfer(from_scratch, theirs["timesteps"])
    except (KeyError, TypeError, AttributeError):
        raise ValueError(f"{file} is not what leap-rl compare writes: compare again") from None


def logger_from(folder: Path, last_step: int) -> Logger:
    """SB3's logger; what an interrupted run wrote after ``last_step`` is withdrawn."""
    put_in_order(folder)
    tensorboard = TensorBoardOutputFormat(str(folder))
    tensorboard.writer.close()
    put_in_order(folder)  # SB3's own writer has begun a file
    tensorboard.writer = SummaryWriter(str(folder), purge_step=last_step + 1)
    return Logger(str(folder), [tensorboard])
