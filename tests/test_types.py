"""The literal types of options name the same things as the tables in which the options are looked up."""

import inspect
from typing import get_args

import pytest

from nbnorm import FNN
from nbnorm.data.columns import KINDS, Kind
from nbnorm.functions.activations import FUNCTIONS, ActivationName
from nbnorm.functions.loss_formulas import LossName
from nbnorm.functions.loss_options import LOSSES, OUTPUTS, Output
from nbnorm.model import metrics, options, schedules
from nbnorm.model.plan import FitManyOptions, FitOptions


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
        (metrics.MetricName, metrics.NAMED),
        (Kind, KINDS),
    ],
)
def test_literals_name_what_the_tables_hold(literal, table):
    names = [name for part in get_args(literal) for name in get_args(part) or (part,)]
    expected = [None if name is type(None) else name for name in names]
    assert sorted(expected, key=str) == sorted(table, key=str)


def test_options_that_are_passed_on_are_those_of_fit():
    parameters = inspect.signature(FNN.fit).parameters
    named = {"self", "X", "y", "checkpoint", "progress"}  # `fit_many` has parameters for these
    assert FitManyOptions.__annotations__.keys() == parameters.keys() - named
    of_folds = {"sample_weight", "validation_data", "seed"}  # `cross_validate` makes these for each fold
    assert FitOptions.__annotations__.keys() == FitManyOptions.__annotations__.keys() - of_folds
    for name, annotation in FitManyOptions.__annotations__.items():
        assert annotation.__forward_arg__ == parameters[name].annotation
