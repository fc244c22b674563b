"""How a device fits the global model to its owner; what was made of that. Pure, and without numpy: the agent has these.

Defaults are what did best on patients of DS1 that were held out (``benchmarks/ecg_personal.py --choose``).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, model_validator

from schemas.messages import Count, Digest, Message, TrainSettings

Method = Literal["fine-tune", "ditto", "local-layers"]

STEPS: Final = 200  # batches
PULL: Final = 0.1  # lambda of Ditto
FOLDS: Final = 5  # that the owner's examples are dealt into, each of which judges what was fitted to the others
FEWEST: Final = 20  # labelled examples; fewer of the first beats of a record gained nothing on DS1
MAX_PREFIXES: Final = 64

Prefix = Annotated[str, Field(min_length=1, max_length=200)]


class PersonalSettings(Message):
    """How a personal model is made: anew for each global model, and beginning with it.

    ``fine-tune`` trains it on. ``ditto`` does so, pulled back to it (Li, Hu, Beirami and Smith 2021). ``local-layers``
    keeps the parameters whose names begin with one of ``layers`` for the device alone and takes all others from the
    global model as they are: a head (FedPer, Arivazhagan et al. 2019) or normalisation layers (FedBN, Li, Jiang et al.
    2021). Rounds then train those others alone, beside the device's own; that the two take turns is FedRep's (Collins
    et al. 2021).
    """

    method: Method
    steps: Annotated[int, Field(ge=1, le=1_000_000)] = STEPS
    pull: Annotated[float, Field(gt=0, le=1e6)] = PULL
    layers: Annotated[tuple[Prefix, ...], Field(max_length=MAX_PREFIXES)] = ()

    @model_validator(mode="after")
    def _layers_where_they_are_local(self) -> PersonalSettings:
        if (self.method == "local-layers") != bool(self.layers):
            raise ValueError("`local-layers` needs names of layers, and the other methods take none")
        return self

    def training(self, run: TrainSettings) -> TrainSettings:
        """The run's own optimiser, rate and class weights, for as many batches as are due."""
        proximal = self.pull if self.method == "ditto" else 0.0
        return run.model_copy(update={"local_steps": self.steps, "proximal": proximal, "max_examples": None})


class Verdict(Message):
    """How both models do on all of the owner's labelled examples; the lower mean loss is used.

    For the personal model each example is judged by a fit that hasn't seen it. The loss counts how sure a model is, so
    that a few dozen beats tell models apart that have the same of them right. Equal losses keep the global model.
    """

    examples: Count  # labelled ones; each judges once, and is trained on by all fits but that one
    personal_loss: Annotated[float, Field(ge=0)]  # mean of the unweighted loss
    global_loss: Annotated[float, Field(ge=0)]
    personal_f1: Annotated[float, Field(ge=0, le=1)] | None  # mean over the classes among them; None without classes
    global_f1: Annotated[float, Field(ge=0, le=1)] | None

    @property
    def personal(self) -> bool:
        """Whether the personal model is the better one."""
        return self.personal_loss < self.global_loss

    def words(self) -> str:
        """What decided, for people."""
        mine, others = f"loss {self.personal_loss:.3g}", f"{self.global_loss:.3g}"
        if self.personal_f1 is not None and self.global_f1 is not None:
            mine, others = f"{mine} and macro-F1 {self.personal_f1:.2f}", f"{others} and {self.global_f1:.2f}"
        return f"{mine} on {self.examples} labelled examples held out in turn, the global one {others}"


class Origin(Message):
    """Which global model a personal one is made of, how, and with what success."""

    run: Annotated[str, Field(min_length=1, max_length=200)]
    version: Count
    model: Digest  # of the global model's parameters
    plan: Digest  # of the plan's blob
    data: Annotated[str, Field(max_length=200)]  # footprint of the recordings' files
    how: PersonalSettings
    verdict: Verdict
