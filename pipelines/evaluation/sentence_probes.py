"""Labels from frozen vectors, by a logistic regression that scikit-learn fits."""

from __future__ import annotations

import importlib
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pipelines.errors import TerminalError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.errors import JSON

STRENGTHS = (0.00001, 0.0001, 0.001, 0.01, 0.1, 1.0)
"""Values of C, the inverse strength of the L2 penalty, that are tried."""
FOLDS = 5
SEED = 0
_ITERATIONS = 1000


@dataclass(frozen=True, slots=True)
class Probe:
    """What a regression answered, and how it was fitted.

    Attributes:
        answers: A label per judged text.
        strength: C, by the best mean accuracy over the folds of the training texts; of equal ones the least.
        fold_accuracy: That accuracy.
        folds: Stratified folds, shuffled by a fixed seed; as many as the rarest label has texts, 2 to 5.
        rare_labels: Labels with fewer training texts than folds, missing in some.
        at_edge: Whether that is the least or greatest strength tried.
        converged: Whether the solver did with that strength on all training texts.
    """

    answers: tuple[str, ...]
    strength: float
    fold_accuracy: float
    folds: int
    rare_labels: int
    at_edge: bool
    converged: bool

    def to_dict(self) -> dict[str, JSON]:
        """Return how it was fitted, as JSON values."""
        record: dict[str, JSON] = asdict(self)
        del record["answers"]
        return {"regression": "logistic, L2, lbfgs", "standardised": True, "seed": SEED, **record}


def require_sklearn() -> None:
    """Import what probes need, which takes a second, on first need.

    Raises:
        TerminalError: it is not installed.
    """
    try:
        importlib.import_module("sklearn.linear_model")
    except ImportError as error:
        raise TerminalError(
            "classifying needs scikit-learn, which is not installed; run `pip install 'kvembed[eval]'`"
        ) from error


def fit_probe(known: NDArray[np.float32], labels: Sequence[str], judged: NDArray[np.float32]) -> Probe:
    """Learn labels from training vectors and answer for others.

    Each number of a vector is standardised by mean and deviation of the vectors learnt from, of a fold by those of its
    own training part. The penalty is chosen on the training texts alone.

    Args:
        known: (m, E) training vectors.
        labels: m, of at least two kinds.
        judged: (n, E).

    Raises:
        TerminalError: scikit-learn is not installed.
    """
    require_sklearn()
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    counts = Counter(labels)
    folds = max(2, min(FOLDS, *counts.values()))
    search = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=_ITERATIONS)),
        {"logisticregression__C": STRENGTHS},
        cv=StratifiedKFold(folds, shuffle=True, random_state=SEED),
        scoring="accuracy",
    )
    with warnings.catch_warnings():
        # Both are reported: of the fit that answers, and as a number of labels.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        search.fit(known.astype("float64"), list(labels))
    strength = float(search.best_params_["logisticregression__C"])
    return Probe(
        answers=tuple(map(str, search.predict(judged.astype("float64")))),
        strength=strength,
        fold_accuracy=float(search.best_score_),
        folds=folds,
        rare_labels=sum(count < folds for count in counts.values()),
        at_edge=strength in (STRENGTHS[0], STRENGTHS[-1]),
        converged=bool((search.best_estimator_[-1].n_iter_ < _ITERATIONS).all()),
    )
