import numpy as np
import pytest

from study.run.metrics import average_accuracy, backward_transfer, forgetting, learning_accuracy

# three experiences; the first is at its best after the second, so forgetting and backward transfer differ
MATRIX = [
    [0.8, 0.9, 0.1],
    [0.9, 0.7, 0.2],
    [0.5, 0.6, 1.0],
]


def test_metrics_of_a_matrix_worked_out_by_hand():
    assert average_accuracy(MATRIX) == pytest.approx((0.5 + 0.6 + 1.0) / 3)
    assert forgetting(MATRIX) == pytest.approx(((0.9 - 0.5) + (0.7 - 0.6)) / 2)
    assert backward_transfer(MATRIX) == pytest.approx(((0.5 - 0.8) + (0.6 - 0.7)) / 2)
    assert learning_accuracy(MATRIX) == pytest.approx((0.8 + 0.7 + 1.0) / 3)


def test_accuracy_before_an_experience_was_learned_cannot_be_forgotten():
    lucky = np.array(MATRIX)
    lucky[0, 1] = 1.0
    assert forgetting(lucky) == forgetting(MATRIX)


def test_a_learner_that_keeps_everything_forgets_nothing():
    kept = [[0.9, 0.3], [0.9, 0.8]]
    assert forgetting(kept) == 0
    assert backward_transfer(kept) == 0


def test_joint_training_has_an_average_accuracy_but_no_forgetting():
    assert average_accuracy([[0.5, 1.0]]) == 0.75
    for metric in (forgetting, backward_transfer, learning_accuracy):
        with pytest.raises(ValueError, match=r"\(1, 2\)"):
            metric([[0.5, 1.0]])


@pytest.mark.parametrize("bad", [[], [0.5, 0.5], [[0.5, 1.5]], [[0.5, float("nan")]], [[-0.1, 0.5]]])
def test_what_is_no_accuracy_matrix_is_refused(bad: list):
    with pytest.raises(ValueError, match="accurac"):
        average_accuracy(bad)
