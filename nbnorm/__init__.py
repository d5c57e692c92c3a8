"""Standardization, batch normalization and fast training of fully connected networks on CPUs."""

from nbnorm import kernels as kernels
from nbnorm.compile.threads import get_num_threads, set_num_threads
from nbnorm.data.convert import convert_file
from nbnorm.data.csv_files import CsvOptions
from nbnorm.data.datasets import load_digits, load_mnist, train_test_split
from nbnorm.data.streams import standardize_file
from nbnorm.data.tables import read_table
from nbnorm.functions.activations import Activation, activation_backward, activation_forward
from nbnorm.functions.batch_norm import (
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_inference,
)
from nbnorm.functions.batch_norm_layer import BatchNorm
from nbnorm.functions.dense import Dense, dense_backward, dense_forward
from nbnorm.functions.gradcheck import gradcheck
from nbnorm.functions.layer_norm import (
    layer_norm_backward,
    layer_norm_forward,
    rms_norm_backward,
    rms_norm_forward,
)
from nbnorm.functions.loss_options import (
    AbsoluteError,
    BinaryCrossEntropy,
    CrossEntropy,
    CustomLoss,
    Huber,
    Poisson,
    Quantile,
    SquaredError,
)
from nbnorm.functions.losses import (
    binary_cross_entropy,
    huber_loss,
    mean_absolute_error,
    mean_squared_error,
    poisson_loss,
    quantile_loss,
    softmax_cross_entropy,
)
from nbnorm.functions.optimizers import SGD, AdamW, Lion, adamw_step, sgd_step
from nbnorm.functions.weighted_batch_norm import weighted_batch_norm_backward, weighted_batch_norm_forward
from nbnorm.model.history import DivergenceError, History
from nbnorm.model.inspection import Inspection, LayerInspection, inspect
from nbnorm.model.many import CrossValidation, cross_validate, fit_many
from nbnorm.model.metrics import Metric
from nbnorm.model.network import FNN
from nbnorm.model.ranks import DataParallel
from nbnorm.model.schedules import Constant, Cosine, LearningRates, OneCycle, Plateau, StepDecay
from nbnorm.model.stopping import EarlyStopping
from nbnorm.statistics.encoding import ColumnEncoder
from nbnorm.statistics.moments import Moments, moments
from nbnorm.statistics.standardize import Standardizer, standardize

__version__ = "0.1.0"

__all__ = [
    "FNN",
    "SGD",
    "AbsoluteError",
    "Activation",
    "AdamW",
    "BatchNorm",
    "BinaryCrossEntropy",
    "ColumnEncoder",
    "Constant",
    "Cosine",
    "CrossEntropy",
    "CrossValidation",
    "CsvOptions",
    "CustomLoss",
    "DataParallel",
    "Dense",
    "DivergenceError",
    "EarlyStopping",
    "History",
    "Huber",
    "Inspection",
    "LayerInspection",
    "LearningRates",
    "Lion",
    "Metric",
    "Moments",
    "OneCycle",
    "Plateau",
    "Poisson",
    "Quantile",
    "SquaredError",
    "Standardizer",
    "StepDecay",
    "activation_backward",
    "activation_forward",
    "adamw_step",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference",
    "binary_cross_entropy",
    "convert_file",
    "cross_validate",
    "dense_backward",
    "dense_forward",
    "fit_many",
    "get_num_threads",
    "gradcheck",
    "huber_loss",
    "inspect",
    "layer_norm_backward",
    "layer_norm_forward",
    "load_digits",
    "load_mnist",
    "mean_absolute_error",
    "mean_squared_error",
    "moments",
    "poisson_loss",
    "quantile_loss",
    "read_table",
    "rms_norm_backward",
    "rms_norm_forward",
    "set_num_threads",
    "sgd_step",
    "softmax_cross_entropy",
    "standardize",
    "standardize_file",
    "train_test_split",
    "weighted_batch_norm_backward",
    "weighted_batch_norm_forward",
]
