import pytest

from nbnorm.model.gradient_table import table


@pytest.mark.slow
def test_every_backward_function_and_option_is_right_to_1e_6():
    rows = table()
    functions = {row.function for row in rows}
    assert {"activation_backward", "dense_backward", "batch_norm_backward", "huber_loss"} <= functions
    assert {"sgd_step", "adamw_step"} <= functions
    wrong = [row for row in rows if not row.error < 1e-6]
    assert wrong == []
