"""Regularisers by hand against torch, numeric slopes, and the moments that they promise."""

from __future__ import annotations

import numpy as np
import torch

from visus.foundations import regularisers as R
from visus.foundations.gradient_check import centred_difference

RNG = np.random.default_rng(0)


def test_slopes_of_the_prices_are_numeric_slopes():
    w = RNG.normal(size=(3, 4))
    for price in (lambda w: R.l1(w, 0.3), lambda w: R.l2(w, 0.7), lambda w: R.elastic_net(w, 0.3, 0.7)):
        numeric = centred_difference(lambda w, price=price: price(w)[0], w)
        np.testing.assert_allclose(price(w)[1], numeric, atol=1e-7)
    value, slope = R.elastic_net(w, 0.3, 0.7)
    assert np.isclose(value, 0.3 * np.abs(w).sum() + 0.35 * (w**2).sum())
    assert R.l1(np.zeros((1, 2)), 1.0)[1].tolist() == [[0, 0]]


def test_max_norm_equals_torchs_renorm_and_the_trainers():
    from visus.optim.regularise import bound_units

    w = RNG.normal(size=(5, 3, 2, 2))
    found = R.max_norm(w, 3.0)
    np.testing.assert_allclose(found, torch.renorm(torch.from_numpy(w), 2, 0, 3.0).numpy(), rtol=1e-6)
    ours = torch.from_numpy(w.copy())
    bound_units(ours, 3.0)
    np.testing.assert_allclose(found, ours.numpy(), atol=1e-14)
    assert not np.array_equal(found, w)


def test_channel_masks_drop_whole_channels_as_torchs_dropout2d_does():
    x = RNG.random((64, 32, 3, 4)) + 1
    ours = x * R.channel_mask(x.shape, 0.3, np.random.default_rng(1))
    torch.manual_seed(0)
    theirs = torch.nn.functional.dropout2d(torch.from_numpy(x), 0.3).numpy()
    for out in (ours, theirs):
        gone = (out == 0).all((2, 3))
        assert (gone == (out == 0).any((2, 3))).all() and abs(gone.mean() - 0.3) < 0.04
        np.testing.assert_allclose(out[~gone], x[~gone] / 0.7)
    assert R.channel_mask((2, 5, 7), 0.5, RNG).shape == (2, 5, 7)


def test_alpha_dropout_is_torchs_where_both_leave_out_the_same_units_and_keeps_mean_and_variance():
    x = RNG.normal(size=(400, 500))
    torch.manual_seed(0)
    theirs = torch.nn.functional.alpha_dropout(torch.from_numpy(x), 0.2, training=True).numpy()
    values, counts = np.unique(theirs, return_counts=True)
    gone = theirs == values[counts.argmax()]  # one value, again and again
    assert abs(gone.mean() - 0.2) < 0.01
    ours = R.alpha_dropout(x, 1.0 - gone, 0.2)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert abs(ours.mean()) < 0.02 and abs(ours.var() - 1) < 0.03


def test_dropconnects_slopes_are_numeric_slopes():
    x, w, b = RNG.normal(size=(3, 4)), RNG.normal(size=(2, 4)), RNG.normal(size=2)
    mask = (RNG.random((3, 2, 4)) < 0.5) / 0.5
    upstream = RNG.normal(size=(3, 2))
    found = R.dropconnect_backward(upstream, R.dropconnect_forward(x, w, b, mask)[1])
    for variable, slope in zip((x, w, b), found, strict=True):
        numeric = centred_difference(lambda _: float((R.dropconnect_forward(x, w, b, mask)[0] * upstream).sum()),
                                     variable)
        np.testing.assert_allclose(slope, numeric, atol=1e-8)
