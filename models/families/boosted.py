"""Gradient-boosted trees: scikit-learn's HistGradientBoostingClassifier on one thread, without early stopping.

The number of trees is the contract's, not the data's, and sums of gradients must not depend on how many cores a machine
has. Trees take raw features: they need no preprocessing.

A fraud counts as `FRAUD_WEIGHT` rows. With frauds as rare as 1 % the second derivative of the loss is near zero in most
leaves, so the Newton steps that fill them are wild; the weight calms them (average precision .52 → .58 in time-ordered
validation on the handbook's transactions). It multiplies the odds, and the intercept divides them again: scores stay
probabilities.
"""

import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
from onnx import helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from contracts.computation import BoostedSpec
from models.families.base import (
    Float32Matrix,
    Float32Vector,
    Labels,
    Progress,
    both_classes,
    features_of,
    labels_of,
)
from models.families.graph import INPUT, OPSETS, OUTPUT, constant, graph_bytes

FRAUD_WEIGHT: Final = 10.0
FRAUD: Final = np.int64(1)
"""Column of the class 1 among the probabilities."""


def round_thresholds(classifier: HistGradientBoostingClassifier) -> None:
    """Lower each threshold to the nearest float32 below it: for float32 rows x, x ≤ threshold keeps its truth.

    skl2onnx rounds to the nearest float32 instead, which sends a row equal to that float32 down the other branch.
    """
    for predictors in classifier._predictors:  # scikit-learn has no public way to them
        for predictor in predictors:
            exact = predictor.nodes["num_threshold"]
            nearest = exact.astype(np.float32)
            lower = np.nextafter(nearest, np.float32(-np.inf))
            predictor.nodes["num_threshold"] = np.where(nearest > exact, lower, nearest)


@dataclass(frozen=True)
class BoostedModel:
    """Trained trees."""

    classifier: HistGradientBoostingClassifier

    @property
    def family(self) -> str:
        """`boosted`."""
        return "boosted"

    def scores(self, X: Float32Matrix) -> Float32Vector:
        """Probability of fraud, float32 (n,)."""
        if not len(X):
            return np.empty(0, np.float32)
        with threadpool_limits(1):
            probabilities: Float32Vector = self.classifier.predict_proba(X)[:, 1].astype(np.float32)
        return probabilities

    def to_onnx(self) -> bytes:
        """The trees as one operator, and the fraud column of its probabilities."""
        d = self.classifier.n_features_in_
        with warnings.catch_warnings():
            # skl2onnx fills a field of integers with booleans.
            warnings.filterwarnings("ignore", "Field onnx.AttributeProto.ints", DeprecationWarning)
            converted = to_onnx(
                self.classifier,
                initial_types=[(INPUT, FloatTensorType([None, d]))],
                options={"zipmap": False},
                target_opset=OPSETS,
            )
        trees = converted.graph.node[0]
        del trees.output[:]
        trees.output.extend(["label", "probabilities"])
        trees.ClearField("name")
        fraud = helper.make_node("Gather", ["probabilities", "fraud"], [OUTPUT], axis=1)
        return graph_bytes([trees, fraud], [constant("fraud", FRAUD)], d)


@dataclass(frozen=True)
class Boosted:
    """The family `boosted`; implements `Family`."""

    spec: BoostedSpec

    @property
    def name(self) -> str:
        """`boosted`."""
        return self.spec.family

    def fit(self, X: Float32Matrix, y: Labels, *, seed: int, progress: Progress | None = None) -> BoostedModel:
        """Train on all rows at hand; see `Family.fit`. Progress is told once, at the end."""
        matrix = features_of(X)
        labels = labels_of(y, len(matrix))
        both_classes(labels)
        classifier = HistGradientBoostingClassifier(
            max_iter=self.spec.iterations,
            learning_rate=self.spec.learning_rate,
            max_leaf_nodes=self.spec.leaves,
            min_samples_leaf=self.spec.min_leaf,
            l2_regularization=self.spec.l2,
            early_stopping=False,
            random_state=seed,
        )
        with threadpool_limits(1):
            classifier.fit(matrix, labels.astype(np.int64), sample_weight=np.where(labels == 1, FRAUD_WEIGHT, 1.0))
        classifier._baseline_prediction -= np.log(FRAUD_WEIGHT)
        round_thresholds(classifier)
        if progress is not None:
            progress(1.0)
        return BoostedModel(classifier)
