"""Episodes of a mesh as a ``gymnasium.vector.VectorEnv``, for trainers that know those.

::

    with envmesh.connect_sync("localhost:7070") as mesh:
        environments = MeshVectorEnv(mesh, "cartpole", num_envs=64)
        observations, infos = environments.reset(seed=7)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np

from envmesh.errors import InvalidRequest, MissingExtra
from envmesh.sync import SyncMesh, connect_sync
from envmesh.vector_batch import Batch

try:
    import gymnasium
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
except ImportError:
    raise MissingExtra("the adapter needs gymnasium: pip install 'envmesh[mesh]'") from None

__all__ = ["MeshVectorEnv"]


class MeshVectorEnv(VectorEnv[Any, Any, Any]):
    """``num_envs`` episodes of a mesh, stepped together.

    ``mesh`` is a synchronous client, or the ``host:port`` to connect to; then it is closed with the environments.
    Autoreset is next-step, on the client, with seeds from one sequence that ``reset(seed=…)`` begins.

    A failed episode has NaN as reward, False in ``infos["valid"]`` (which is there at every step) and its cause in
    ``infos["failure"]``; it is neither terminated nor truncated, and begins anew at the next step.

    Raises:
        InvalidRequest: the environment declares no Gymnasium spaces, or has several agents.
    """

    def __init__(
        self,
        mesh: SyncMesh | str,
        environment: str,
        num_envs: int,
        *,
        options: Mapping[str, Any] | None = None,
        timeout: float | None = None,
        step_timeout: float | None = None,
    ):
        self._own_mesh: SyncMesh | None = None
        if isinstance(mesh, str):
            mesh = self._own_mesh = connect_sync(mesh)
            mesh.__enter__()
        try:
            self._vector = mesh.vector(
                environment, num_envs, options=options, timeout=timeout, step_timeout=step_timeout
            )
            self._vector.prepare()
            observation_space, action_space = (
                self._vector.spec.observation_space, self._vector.spec.action_space
            )  # fmt: skip
            for name, space in (("observation_space", observation_space), ("action_space", action_space)):
                if not isinstance(space, gymnasium.Space):
                    declared = "none" if space is None else type(space).__name__
                    raise InvalidRequest(
                        f"{environment} must declare a Gymnasium {name}; it declares {declared}"
                    )
        except BaseException:
            self._close_all()
            raise
        self.num_envs = num_envs
        self.single_observation_space = observation_space
        self.single_action_space = action_space
        self.observation_space = batch_space(observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)
        self._observations = self._empty()
        self._valid = np.ones(num_envs, np.bool_)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP, "render_modes": []}
        self.render_mode = None
        self.spec = None

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin new episodes everywhere, or where ``options["reset_mask"]`` is True; with a mask ``seed`` may list a
        seed for each place, of which those that the mask leaves out do not count, or one for each that begins anew.

        Raises: as ``Vector.reset``.
        """
        options = dict(options or {})
        mask = options.pop("reset_mask", None)
        ids = None if mask is None else np.flatnonzero(mask)
        given: Any = seed
        if isinstance(given, list):
            if ids is not None and len(given) == self.num_envs:
                given = [given[place] for place in ids.tolist()]
            if None in given:
                if any(each is not None for each in given):
                    raise InvalidRequest("give every episode a seed, or none", reason="SEED_UNSUPPORTED")
                given = None
        if ids is None:
            batch = self._vector.reset(seed=given, options=options or None)
            self._observations = self._stacked(batch)
            return self._observations, self._infos(batch)
        batch = self._vector.reset(seed=given, options=options or None, ids=ids.tolist())
        self._observations = self._replaced(batch, ids)
        return self._observations, self._infos(batch)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step every episode; those that ended begin anew instead.

        Raises: as ``Vector.step``. After a step that raised, ``reset`` first: its outcomes must not pass for those of
        the next one.
        """
        column = actions if isinstance(actions, np.ndarray) else list(iterate(self.action_space, actions))
        batch = self._vector.step(column)
        self._observations = self._stacked(batch)
        return self._observations, batch.rewards, batch.terminated, batch.truncated, self._infos(batch)

    def close_extras(self, **kwargs: Any) -> None:
        """End the episodes, and the client where it is our own."""
        self._close_all()

    def _close_all(self) -> None:
        vector = getattr(self, "_vector", None)
        if vector is not None:
            vector.__exit__(None, None, None)
        if self._own_mesh is not None:
            self._own_mesh.close()

    def _stacked(self, batch: Batch) -> Any:
        observations = batch.observations
        if isinstance(observations, np.ndarray):
            return observations
        return concatenate(self.single_observation_space, self._filled(batch), self._empty())

    def _filled(self, batch: Batch) -> list[Any]:
        """The observations, one by one, with something of the same shape for those that failed."""
        return [
            observation if valid else self._nothing()
            for observation, valid in zip(batch.observations, batch.valid.tolist(), strict=True)
        ]

    def _empty(self) -> Any:
        return create_empty_array(self.single_observation_space, self.num_envs)

    def _nothing(self) -> Any:
        """What stands for the observation of a failed episode: zeros, or always the same sample where they are none."""
        space = self.single_observation_space
        one: Any = next(iter(iterate(batch_space(space, 1), create_empty_array(space, 1))))
        if one in space:
            return one
        space = copy.deepcopy(space)
        space.seed(0)
        return space.sample()

    def _replaced(self, batch: Batch, ids: Any) -> Any:
        items = list(iterate(self.observation_space, self._observations))
        for number, observation in zip(ids.tolist(), self._filled(batch), strict=True):
            items[number] = observation
        return concatenate(self.single_observation_space, items, self._empty())

    def _infos(self, batch: Batch) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        if batch.rows.infos is not None:
            for number, info in zip(batch.ids.tolist(), batch.infos, strict=True):
                infos = self._add_info(infos, info, number)
        for number, failure in batch.failures.items():
            infos = self._add_info(infos, {"failure": failure.cause}, number)
        self._valid[batch.ids] = batch.valid
        infos["valid"] = self._valid.copy()
        return infos
