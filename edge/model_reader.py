"""Models as jobs bring them, a snapshot and steps, made into arrays: the trainer child's half of ``lineage``."""

from __future__ import annotations

from edge.core.lineage import Lineage
from schemas import compression, steps
from schemas.errors import ModelError, WireError
from schemas.parameters import Manifest, Parameters


class ModelReader:
    """Keeps the newest model that it made by steps: the next job's is the same, or a step on."""

    def __init__(self) -> None:
        self._newest: tuple[str, Parameters] | None = None  # with its digest

    def read(self, raw: bytes, manifest: Manifest) -> Parameters:
        """The model in ``raw``.

        Raises ``WireError`` where a snapshot alone can't be read, ``ModelError`` where the steps don't lead to the
        digest that is given with the last of them: then the snapshot of that version is needed.
        """
        lineage = Lineage.unpack(raw)
        if not lineage.steps:
            return compression.decode(lineage.snapshot, manifest)
        wanted = lineage.steps[-1][0]
        try:
            model = self._follow(lineage, manifest)
        except WireError as error:
            text = f"a step to the model {wanted[:8]} can't be taken ({error}): it is fetched whole"
            raise ModelError(text) from error
        if model.digest() != wanted:
            raise ModelError(f"the steps lead to another model than {wanted[:8]}: it is fetched whole")
        self._newest = wanted, model
        return model

    def _follow(self, lineage: Lineage, manifest: Manifest) -> Parameters:
        known = {digest: index for index, (digest, _) in enumerate(lineage.steps)}
        if self._newest is not None and self._newest[0] in known and self._newest[1].manifest == manifest:
            done, model = known[self._newest[0]] + 1, self._newest[1]
        else:
            done, model = 0, compression.decode(lineage.snapshot, manifest)
        for _, step in lineage.steps[done:]:
            model = steps.apply(model, step)
        return model
