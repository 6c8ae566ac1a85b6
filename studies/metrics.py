"""The metrics that results carry: their names and which way is better."""

import re

ACCURACY = "accuracy"
"""Share of images whose most likely class is the true one, in [0, 1]."""
ACCURACY_TOP5 = "accuracy_top5"
"""Share of images whose true class is one of the five most likely, in [0, 1]."""
LOSS = "loss_nats"
"""Mean negative log-likelihood of the true class."""
CALIBRATION_ERROR = "calibration_error"
"""How far confidence is from the share that is right, in [0, 1] (arXiv:1706.04599, section 2)."""
TRAIN_LOSS = "train_loss_nats"
"""Training loss of the last step, label smoothing included."""
BEST_STEP = "best_step"
"""The step whose weights a training left because an evaluation was best there."""


def fewshot_accuracy(shots: int) -> str:
    """Accuracy of the few-shot classifier with this many images a class, averaged over support seeds."""
    return f"accuracy_{shots}shot"


def fewshot_accuracy_of_seed(shots: int, support_seed: int) -> str:
    """The same for one support seed."""
    return f"accuracy_{shots}shot_seed{support_seed}"


def chosen_l2(shots: int) -> str:
    """The penalty, of several, that the few-shot classifiers with this many images a class took."""
    return f"l2_{shots}shot"


def watched(metric: str, dataset: str, split: str) -> str:
    """What a metric is called among the measurements of a training on its way."""
    return f"{dataset}/{split}/{metric}"


def is_of_one_support_seed(metric: str) -> bool:
    """Whether a metric is a replicate within an evaluation, whose mean has a name of its own."""
    return re.search(r"_seed\d+$", metric) is not None


def direction(metric: str) -> int:
    """+1 where more is better, -1 where less is: quality on a frontier is direction * value.

    Raises ValueError for what is no quality: a step, a chosen penalty, a measurement on the way.
    """
    if metric.split("_")[0] == ACCURACY:
        return 1
    if metric in (LOSS, TRAIN_LOSS, CALIBRATION_ERROR):
        return -1
    raise ValueError(f"'{metric}' is no quality: it is neither an accuracy nor a loss nor a calibration error")
