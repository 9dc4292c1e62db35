"""What a contract lets run on the data: a joint training, or a capsule. Closed vocabularies, nothing else."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from contracts.terms import Digest, Term

Sealing = Literal["none", "container", "gvisor"]
TWO_WAY = ("fedavg", "fedprox", "fedadam", "median", "trimmed-mean")


Epochs = Annotated[int, Field(strict=True, ge=1, le=500)]
Batch = Annotated[int, Field(strict=True, ge=16, le=65536)]
Rate = Annotated[float, Field(strict=True, gt=0, le=1)]
Penalty = Annotated[float, Field(strict=True, ge=0, le=100)]
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
    """Rounds of local training whose updates are combined."""

    name: Literal["fedavg", "fedprox", "fedadam", "median", "trimmed-mean"]
    rounds: Annotated[int, Field(ge=1, le=1000)] = 12
    local_epochs: Annotated[int, Field(ge=1, le=100)] = 1


class Ensemble(Term):
    """One-way: each party's own model goes up, nothing comes down."""

    name: Literal["ensemble"]


Method = Annotated[Pooled | Federated | Ensemble, Field(discriminator="name")]


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

    def candidates(self) -> tuple[ModelSpec, ...]:
        """The families a party's own model is chosen from; the joint model's own is always among them."""
        return self.baselines if self.model in self.baselines else (*self.baselines, self.model)


class Capsule(Term):
    """Somebody's code on somebody else's data."""

    kind: Literal["capsule"]
    capsule: Digest
    image: Digest
    mode: Literal["validate", "verify"]
    sealing: Sealing = "container"


Computation = Annotated[JointTraining | Capsule, Field(discriminator="kind")]
