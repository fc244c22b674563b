"""The trainer's jobs: made of what is asked for and of what is on disk. No decisions here, and no arrays."""

from __future__ import annotations

from edge.core import effects as fx
from edge.core import events as ev
from edge.core.jobs import Evaluate, Merge, Personalise, Train
from edge.device import Device
from edge.outbox import Outbox
from edge.store import Store


class JobMaker:
    """Makes the jobs of one device."""

    def __init__(self, device: Device, store: Store, outbox: Outbox) -> None:
        self._device = device
        self._store = store
        self._outbox = outbox

    def make(
        self, effect: fx.StartTraining | fx.StartEvaluation | fx.StartMerging | fx.StartPersonalising, run: str | None
    ) -> Train | Evaluate | Merge | Personalise | ev.HoldingLost:
        """The job that ``effect`` asks for in ``run``; what the disk has lost, where that is in the way."""
        held, plan = self._store.model(), self._store.plan(effect.plan)
        torn = held is None or held.pointer.digest != effect.model
        if held is None or torn or plan is None:
            return ev.HoldingLost(effect.key, plan=plan is None, model=torn)
        about: dict[str, object] = {"key": effect.key, "plan": plan, "model": held.lineage.pack()}
        if isinstance(effect, fx.StartMerging):
            return Merge.model_validate(about)
        about["data"] = self._device.data
        if isinstance(effect, fx.StartPersonalising):
            about |= {"settings": effect.settings, "seed": effect.seed, "how": effect.how}
            return Personalise.model_validate(about)
        personal = self._device.personal
        if personal is not None and personal.layers:
            about |= {"own": self._own_model(effect.plan, run), "local": personal.layers}
        if isinstance(effect, fx.StartTraining):
            about |= {"settings": effect.settings, "seed": effect.seed, "codec": effect.codec}
            about["checkpoint"] = self._store.checkpoint(effect.key, effect.plan, effect.model)
            about["checkpoint_s"] = self._device.checkpoint_s
            about["residual"] = self._outbox.residual(effect.ticket, effect.plan)
            return Train.model_validate(about)
        return Evaluate.model_validate(about)

    def _own_model(self, plan: str, run: str | None) -> bytes:
        """Its owner's own model, where it is the better one, of this plan and run, and made as its owner wants it now.

        A round has no use for one of another run, whose layers know nothing of this run's others.
        """
        own = self._store.personal()
        if own is None or (own[0].plan, own[0].how, own[0].run) != (plan, self._device.personal, run):
            return b""
        return own[1] if own[0].verdict.personal else b""
