import functools

import numpy as np
import pytest
from loss_cases import CASES, LABELS, WEIGHTS, T, Z, output_of, quartic

from nbnorm import CustomLoss
from nbnorm.compile.kernels import kernel
from nbnorm.compile.workspace import Workspace, WorkspaceType
from nbnorm.engine.losses import block_kernel, softmax_rows
from nbnorm.engine.microkernels import tile
from nbnorm.functions.loss_options import resolve

DTYPES = [np.float32, np.float64]


@functools.cache
def _from_python(block):
    """Let Python call a kernel that only compiled code calls."""

    @kernel(cache=False)
    def call(run, z, g, scratch, size, first, valid, inverse, at):
        block(run, z, g, scratch, size, first, valid, inverse, at)

    return call


def _block(loss, z, y, weights, dtype, inverse):
    """Run the kernel of a loss on samples that stand in reverse order in the data."""
    valid, size = z.shape
    width = tile(np.dtype(dtype)).width
    act = np.full(5 * size * width + 7, 99, dtype)
    act[: size * width].reshape(size, width)[:, :valid] = z.T
    act[: size * width].reshape(size, width)[:, valid:] = 0
    g = size * width
    rows = np.arange(3 + valid)[::-1].copy()
    labels, targets, w = np.zeros(valid, np.int64), np.zeros(1, dtype), np.zeros(0, dtype)
    if y.ndim == 1:
        labels = y[::-1].copy()
    else:
        targets = y[::-1].astype(dtype).reshape(-1)
    if weights is not None:
        w = weights[::-1].astype(dtype)
    partial = np.full(6, 99.0)
    members = {
        "act": act,
        "order": rows,
        "labels": labels,
        "targets": targets,
        "weights": w,
        "options": loss.options(),
        "partial": partial,
    }
    run = Workspace(WorkspaceType({name: (x.dtype, 1) for name, x in members.items()}), **members)
    _from_python(block_kernel(loss))(run, 0, g, 2 * g, size, 3, valid, dtype(inverse), 2)
    assert (partial[[0, 1, 4, 5]] == 99).all()
    assert (act[5 * size * width :] == 99).all()
    return partial[2], partial[3], act[g : 2 * g].reshape(size, width)[:, :valid].T


def _hits(z, y, output):
    if output == "softmax":
        return (z.argmax(axis=1) == y).astype(float)
    return ((z > 0) == (y > 0.5)).all(axis=1) if output == "sigmoid" else np.zeros(len(z))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_block_agrees_with_the_function(case, dtype):
    function, y, options, loss = CASES[case]
    valid = tile(np.dtype(dtype)).width - 1
    z, y = Z[:valid].astype(dtype), y[:valid]
    for weights in (None, WEIGHTS[:valid]):
        w = np.ones(valid) if weights is None else weights
        got, hits, gradient = _block(loss, z, y, weights, dtype, 1 / w.sum())
        expected, expected_gradient = function(z, y, sample_weight=weights, **options)
        rtol = 1e-6 if dtype == np.float32 else 1e-13
        assert got / w.sum() == pytest.approx(expected, rel=rtol)
        assert hits == (w * _hits(z, y, output_of(case))).sum()
        np.testing.assert_allclose(gradient, expected_gradient, rtol=rtol, atol=rtol / 10)


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "identity"])
def test_block_of_a_custom_loss(output):
    loss = resolve(CustomLoss(quartic), output)
    y = LABELS if output == "softmax" else T
    t = np.eye(3)[LABELS] if output == "softmax" else T
    valid = tile(np.dtype(np.float64)).width - 1
    z, y, t, w = Z[:valid], y[:valid], t[:valid], WEIGHTS[:valid]
    got, hits, gradient = _block(loss, z, y, w, np.float64, 0.5)
    assert got == pytest.approx((w[:, None] * (z - t) ** 4).sum())
    assert hits == (w * _hits(z, y, output)).sum()
    np.testing.assert_allclose(gradient, 2 * w[:, None] * (z - t) ** 3, rtol=1e-12)
    assert loss.value(z, y, w) == pytest.approx(got / w.sum())


@kernel
def softmax(x, z, g, top, total, share, stride, n):
    softmax_rows(x, z, g, top, total, share, stride, n)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_softmax_rows(dtype, outputs):
    width = tile(np.dtype(dtype)).width
    z = np.random.default_rng(0).normal(0, 3, (outputs, width)).astype(dtype)
    flat = np.concatenate([z, np.zeros((outputs + 2, width), dtype), np.full((1, width), 0.25, dtype)])
    flat = flat.reshape(-1)
    g, top, total, share = (k * width for k in (outputs, 2 * outputs, 2 * outputs + 1, 2 * outputs + 2))
    softmax(flat, 0, g, top, total, share, width, outputs)
    got = flat.reshape(-1, width)
    e = np.exp(z.astype(float) - z.max(axis=0))
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(got[outputs : 2 * outputs], 0.25 * e / e.sum(axis=0), rtol=20 * eps, atol=eps)
    np.testing.assert_array_equal(got[2 * outputs], z.max(axis=0))
    np.testing.assert_allclose(got[2 * outputs + 1], e.sum(axis=0), rtol=20 * eps)
