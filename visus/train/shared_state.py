"""Checkpoints of several processes: one writer where all hold the same, one file for each where the weights are split;
and the random generators of all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visus.core.errors import ResourceError
from visus.core.seeds import hash64
from visus.train.checkpoint import (
    CheckpointStore,
    flatten,
    rng_state,
    seed_generators,
    set_rng_state,
    unflatten,
)
from visus.train.world import World


def save_together(store: CheckpointStore, step: int, state: Mapping[str, Any], world: World, sharded: bool) -> Path:
    """Write the state once. sharded: each process writes its part. Raises ResourceError in every process where any
    could not write; older states are then untouched."""
    if world.size == 1:
        return store.save(step, state)
    if sharded:
        from visus.train.sharded_checkpoint import save_sharded

        return save_sharded(store, step, state, world)
    problem = None
    try:
        if world.leads:
            store.save(step, state)
    except ResourceError as error:
        problem = [error.problem, error.where, error.remedy]
    if (problem := world.share(problem)) is not None:
        raise ResourceError(problem[0], where=problem[1], remedy=problem[2])
    return store.folder / f"step-{step:09d}.safetensors"


def rng_states(world: World) -> list[Any]:
    """The generators of every process, by rank."""
    tensors, rest = flatten(rng_state())
    return [unflatten(parts, told) for parts, told in zip(world.gather_tensors(tensors), world.gather(rest),
                                                          strict=True)]


def take_rng_state(state: Any, world: World, step: int) -> None:
    """Go on with the generators of a checkpoint. Another number of processes than wrote it cannot go on with theirs:
    they begin anew, each by the step and its rank."""
    states = state if isinstance(state, list) else [state]
    if len(states) == world.size:
        set_rng_state(states[world.rank])
    else:
        seed_generators(process_seed(step, world))


def process_seed(seed: int, world: World) -> int:
    """The seed of this process: the first has the job's own, so that one process alone draws as ever."""
    return seed if world.leads else int(hash64(seed, "process", world.rank) >> 33)
