"""The literal types of options name the same things as the tables in which the options are looked up."""

from typing import get_args

import pytest

from nbnorm.data.columns import KINDS, Kind
from nbnorm.functions.activations import FUNCTIONS, ActivationName
from nbnorm.functions.loss_formulas import LossName
from nbnorm.functions.loss_options import LOSSES, OUTPUTS, Output
from nbnorm.model import options, schedules


@pytest.mark.parametrize(
    ("literal", "table"),
    [
        (ActivationName, FUNCTIONS),
        (LossName, LOSSES),
        (Output, OUTPUTS),
        (options.Norm | None, options.NORMS),
        (options.Init, options.INITS),
        (options.Precision, options.PRECISIONS),
        (options.Encoding | None, options.ENCODINGS),
        (schedules.ScheduleName, schedules.NAMED),
        (Kind, KINDS),
    ],
)
def test_literals_name_what_the_tables_hold(literal, table):
    names = [name for part in get_args(literal) for name in get_args(part) or (part,)]
    expected = [None if name is type(None) else name for name in names]
    assert sorted(expected, key=str) == sorted(table, key=str)
