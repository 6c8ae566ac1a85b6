"""The metrics that results carry: their names and which way is better."""

import re

ACCURACY = "accuracy"
"""Share of images whose most likely class is the true one, in [0, 1]."""
LOSS = "loss_nats"
"""Mean negative log-likelihood of the true class."""
TRAIN_LOSS = "train_loss_nats"
"""Training loss of the last step, label smoothing included."""


def fewshot_accuracy(shots: int) -> str:
    """Accuracy of the few-shot classifier with this many images a class, averaged over support seeds."""
    return f"accuracy_{shots}shot"


def fewshot_accuracy_of_seed(shots: int, support_seed: int) -> str:
    """The same for one support seed."""
    return f"accuracy_{shots}shot_seed{support_seed}"


def is_of_one_support_seed(metric: str) -> bool:
    """Whether a metric is a replicate within an evaluation, whose mean has a name of its own."""
    return re.search(r"_seed\d+$", metric) is not None


def direction(metric: str) -> int:
    """+1 where more is better, -1 where less is: quality on a frontier is direction * value."""
    if metric.startswith(ACCURACY):
        return 1
    if metric in (LOSS, TRAIN_LOSS):
        return -1
    raise ValueError(f"'{metric}' is no metric: it is neither an accuracy nor a loss")
