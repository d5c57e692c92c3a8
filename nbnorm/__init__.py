"""Standardization, batch normalization and fast training of fully connected networks on CPUs."""

from nbnorm import kernels as kernels
from nbnorm._jit import get_num_threads, set_num_threads
from nbnorm.activations import Activation, activation_backward, activation_forward
from nbnorm.batch_norm import BatchNorm, batch_norm_backward, batch_norm_forward, batch_norm_inference
from nbnorm.datasets import load_digits, load_mnist, train_test_split
from nbnorm.dense import Dense, dense_backward, dense_forward
from nbnorm.gradcheck import gradcheck
from nbnorm.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    CrossEntropy,
    CustomLoss,
    Huber,
    Poisson,
    SquaredError,
    binary_cross_entropy,
    huber_loss,
    mean_absolute_error,
    mean_squared_error,
    poisson_loss,
    softmax_cross_entropy,
)
from nbnorm.many import CrossValidation, cross_validate, fit_many
from nbnorm.metrics import Metric
from nbnorm.moments import Moments, moments
from nbnorm.network import FNN
from nbnorm.optimizers import SGD, AdamW, adamw_step, sgd_step
from nbnorm.standardize import Standardizer, standardize
from nbnorm.training import DivergenceError, EarlyStopping, History

__version__ = "0.1.0"

__all__ = [
    "FNN",
    "SGD",
    "AbsoluteError",
    "Activation",
    "AdamW",
    "BatchNorm",
    "BinaryCrossEntropy",
    "CrossEntropy",
    "CrossValidation",
    "CustomLoss",
    "Dense",
    "DivergenceError",
    "EarlyStopping",
    "History",
    "Huber",
    "Metric",
    "Moments",
    "Poisson",
    "SquaredError",
    "Standardizer",
    "activation_backward",
    "activation_forward",
    "adamw_step",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_inference",
    "binary_cross_entropy",
    "cross_validate",
    "dense_backward",
    "dense_forward",
    "fit_many",
    "get_num_threads",
    "gradcheck",
    "huber_loss",
    "load_digits",
    "load_mnist",
    "mean_absolute_error",
    "mean_squared_error",
    "moments",
    "poisson_loss",
    "set_num_threads",
    "sgd_step",
    "softmax_cross_entropy",
    "standardize",
    "train_test_split",
]
