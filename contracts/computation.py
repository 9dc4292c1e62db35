"""What a contract lets run on the data: a joint training, or a capsule. Closed vocabularies, nothing else."""

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contracts.capsule import CapsuleLimits, DeclaredOutput, Outputs
from contracts.terms import Digest, Term

Sealing = Literal["none", "container", "gvisor"]
Stage = Literal["prepare", "baseline", "train", "evaluate", "synthetic", "confidential"]
TWO_WAY = ("fedavg", "fedprox", "fedadam", "median", "trimmed-mean")

Epochs = Annotated[int, Field(strict=True, ge=1, le=500)]
Batch = Annotated[int, Field(strict=True, ge=16, le=65536)]
Rate = Annotated[float, Field(strict=True, gt=0, le=1)]
Penalty = Annotated[float, Field(strict=True, ge=0, le=100)]
Seconds = Annotated[int, Field(strict=True, ge=10, le=86400)]  # a worker takes some of them to start
Width = Annotated[int, Field(strict=True, ge=1, le=512)]


class LogisticSpec(Term):
    """Logistic regression: a net without hidden layers."""

    family: Literal["logistic"] = "logistic"
    epochs: Epochs = 12
    batch: Batch = 1024
    learning_rate: Rate = 0.05
    weight_decay: Penalty = 0.0001

    @property
    def layers(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return ()


class MlpSpec(Term):
    """A multilayer perceptron with ReLU between its layers."""

    family: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[Width, ...], Field(min_length=1, max_length=4)] = (64, 32)
    epochs: Epochs = 12
    batch: Batch = 1024
    learning_rate: Rate = 0.01
    weight_decay: Penalty = 0.0001

    @property
    def layers(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return self.hidden


class BoostedSpec(Term):
    """Gradient-boosted trees on histograms; `l2` is the penalty on leaf values, `min_leaf` counts rows."""

    family: Literal["boosted"] = "boosted"
    iterations: Annotated[int, Field(strict=True, ge=1, le=1000)] = 100
    learning_rate: Rate = 0.05
    leaves: Annotated[int, Field(strict=True, ge=2, le=255)] = 31
    min_leaf: Annotated[int, Field(strict=True, ge=1, le=100_000)] = 20
    l2: Penalty = 1.0


ModelSpec = Annotated[LogisticSpec | MlpSpec | BoostedSpec, Field(discriminator="family")]


class Pooled(Term):
    """All training rows in one sealed worker."""

    name: Literal["pooled"]


class Federated(Term):
    """Rounds of local training whose updates are combined; what each method adds stands below.

    `round_seconds`: how long a party may take, in all, to answer what it is asked in one round; what comes before the
    first round counts as one, the training of its own model included.
    """

    rounds: Annotated[int, Field(strict=True, ge=1, le=1000)] = 12
    local_epochs: Annotated[int, Field(strict=True, ge=1, le=100)] = 1
    round_seconds: Seconds = 1800


class FedAvg(Federated):
    """The average, weighted by training rows (McMahan et al. 2017, arXiv:1602.05629)."""

    name: Literal["fedavg"]


class FedProx(Federated):
    """The same, while each party pays for moving away from the joint model (Li et al. 2020, arXiv:1812.06127)."""

    name: Literal["fedprox"]
    proximal: Annotated[float, Field(strict=True, gt=0, le=10)] = 0.01  # mu


class FedAdam(Federated):
    """The average is a direction, in which Adam steps (Reddi et al. 2021, arXiv:2003.00295)."""

    name: Literal["fedadam"]
    server_rate: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.01  # eta
    adaptivity: Annotated[float, Field(strict=True, gt=0, le=1)] = 0.001  # tau


class Median(Federated):
    """The median of each parameter (Yin et al. 2018, arXiv:1803.01498): one liar among three cannot move it far."""

    name: Literal["median"]


class TrimmedMean(Federated):
    """The mean of each parameter without the lowest and highest `trim` of the parties (as `median`).

    Unweighted by rows, as the median is. Which `trim` a roster needs is checked with it (`Contract`).
    """

    name: Literal["trimmed-mean"]
    trim: Annotated[float, Field(strict=True, gt=0, lt=0.5)] = 0.25

    @classmethod
    def trim_for(cls, parties: int) -> float:
        """The default `trim`, or of so few parties that it leaves nobody out the least that does, in thousandths."""
        return max(0.25, cls.least(parties))

    @staticmethod
    def least(parties: int) -> float:
        """The least `trim` that leaves somebody out of so many, in thousandths."""
        return math.ceil(1000 / parties) / 1000

    def trimmed(self, parties: int) -> int:
        """How many of so many parties are left out at each end."""
        return int(self.trim * parties + 1e-9)  # 0.29 of 100 is 28.999… in binary


class Ensemble(Term):
    """One-way: each party's own model goes up, nothing comes down.

    Their scores, calibrated on the last `select-days` of each party's training window, are combined; each weighs by
    the frauds its party had in them, up to a bound (`models.ensemble`).
    """

    name: Literal["ensemble"]
    round_seconds: Seconds = 1800


def unfit(method: "Method", parties: int) -> str | None:
    """Why a method would not do with so many parties what it is named for; None if it does."""
    if isinstance(method, TrimmedMean | Median) and parties < 3:
        return f"method {method.name} needs three parties; of two nobody is in the middle"
    if isinstance(method, TrimmedMean) and method.trimmed(parties) < 1:
        least = TrimmedMean.least(parties)
        return f"trim {method.trim:g} of {parties} parties leaves nobody out; it has to be at least {least:g}"
    return None


InRounds = FedAvg | FedProx | FedAdam | Median | TrimmedMean
Method = Annotated[Pooled | InRounds | Ensemble, Field(discriminator="name")]


class JointTraining(Term):
    """Train one model on everyone's data, and each party's own model for comparison."""

    kind: Literal["joint-training"]
    worker: Digest  # the code or image that runs
    model: ModelSpec
    method: Method
    baselines: Annotated[
        tuple[ModelSpec, ...], Field(max_length=8)
    ] = ()  # a party's own candidates; empty: `model` alone
    select_days: Annotated[int, Field(ge=1, le=366)] = 7  # own model chosen on the last days of the training window
    replicates: Annotated[int, Field(ge=2000, le=20000)] = 2000
    bound: Literal["percentile", "bca"] = "percentile"
    seed: Literal["from-contract"] = "from-contract"
    sealing: Sealing

    @model_validator(mode="after")
    def _trainable(self) -> Self:
        if self.model.family == "boosted" and isinstance(self.method, Federated):
            raise ValueError(f"family boosted has no parameters to average: method {self.method.name} cannot train it")
        return self

    def stages(self) -> tuple[Stage, ...]:
        """The stages of a run, in order."""
        return ("prepare", "baseline", "train", "evaluate")

    def candidates(self) -> tuple[ModelSpec, ...]:
        """The families a party's own model is chosen from; the joint model's own is always among them."""
        return self.baselines if self.model in self.baselines else (*self.baselines, self.model)


class CapsuleRun(Term):
    """Somebody's code on somebody else's data: first on the capsule's synthetic rows, then on the confidential ones."""

    kind: Literal["capsule"]
    capsule: Digest  # of code, environment and declaration (see `contracts.capsule`)
    image: Digest  # that its environment was rebuilt as, on a base the operator vetted
    mode: Literal["validate", "verify"]
    outputs: Outputs  # as the capsule declares them
    limits: CapsuleLimits = CapsuleLimits()
    sealing: Literal["container", "gvisor"] = "container"  # strangers' code is never a process of the escrow's own

    def stages(self) -> tuple[Stage, ...]:
        """The stages of a run, in order."""
        return ("synthetic", "confidential")

    def unvetted(self) -> tuple[DeclaredOutput, ...]:
        """The outputs that may not leave before a machine has vetted them."""
        return tuple(output for output in self.outputs if output.vetting != "none")


Computation = Annotated[JointTraining | CapsuleRun, Field(discriminator="kind")]
