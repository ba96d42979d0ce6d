"""Sizes against torch itself, receptive fields against gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from visus.core.errors import UserError
from visus.ops.geometry import (
    LayerSpec,
    chain_geometry,
    conv_output_size,
    pool_output_size,
    tiling_problem,
    transposed_output_size,
)

NUMBERS = {"size": st.integers(1, 40), "kernel": st.integers(1, 8), "stride": st.integers(1, 5),
           "padding": st.integers(0, 5), "dilation": st.integers(1, 4)}


def same_as_torch(ours, theirs) -> None:
    """Equal sizes, or both refuse; where torch puts out no places at all, we refuse."""
    try:
        expected = theirs().shape[-1]
    except RuntimeError:
        expected = 0
    if expected == 0:
        with pytest.raises(UserError):
            ours()
    else:
        assert ours() == expected


@settings(max_examples=300, deadline=None)
@given(**NUMBERS)
def test_convolutions_put_out_what_torch_says(size, kernel, stride, padding, dilation):
    images, weight = torch.empty(1, 1, size, size, device="meta"), torch.empty(1, 1, kernel, kernel, device="meta")
    same_as_torch(lambda: conv_output_size(size, kernel, stride, padding, dilation),
                  lambda: F.conv2d(images, weight, None, stride, padding, dilation))


@settings(max_examples=300, deadline=None)
@given(**NUMBERS, ceil_mode=st.booleans())
def test_poolings_put_out_what_torch_says(size, kernel, stride, padding, dilation, ceil_mode):
    images = torch.empty(1, 1, size, size, device="meta")
    same_as_torch(lambda: pool_output_size(size, kernel, stride, padding, dilation, ceil_mode),
                  lambda: F.max_pool2d(images, kernel, stride, padding, dilation, ceil_mode))
    if dilation == 1:
        same_as_torch(lambda: pool_output_size(size, kernel, stride, padding, 1, ceil_mode),
                      lambda: F.avg_pool2d(images, kernel, stride, padding, ceil_mode))


@settings(max_examples=300, deadline=None)
@given(**NUMBERS, output_padding=st.integers(0, 4))
def test_transposed_convolutions_put_out_what_torch_says(size, kernel, stride, padding, dilation, output_padding):
    images, weight = torch.empty(1, 1, size, size), torch.empty(1, 1, kernel, kernel)
    same_as_torch(lambda: transposed_output_size(size, kernel, stride, padding, output_padding, dilation),
                  lambda: F.conv_transpose2d(images, weight, None, stride, padding, output_padding, 1, dilation))


def test_the_cases_of_cs231n():
    """Its notes on convolutional networks: a 7 x 7 input, AlexNet, and a stride that does not fit."""
    assert conv_output_size(7, 3) == 5 and conv_output_size(7, 3, 2) == 3
    assert conv_output_size(227, 11, 4) == 55 and tiling_problem(227, 11, 4) is None
    problem = tiling_problem(10, 3, 2)
    assert problem is not None and "= 3.5 is not whole" in problem and "9 or 11 places" in problem
    assert tiling_problem(224, 11, 4) is not None  # what the paper prints


@settings(max_examples=100, deadline=None)
@given(**NUMBERS)
def test_the_sizes_that_are_proposed_tile(size, kernel, stride, padding, dilation):
    try:
        problem = tiling_problem(size, kernel, stride, padding, dilation)
    except UserError:
        return
    left = (size + 2 * padding - (kernel - 1) * dilation - 1) % stride
    assert (problem is None) == (left == 0)
    if problem is not None:
        assert f"{size - left} or {size + stride - left} places would tile" in problem
        assert tiling_problem(size + stride - left, kernel, stride, padding, dilation) is None


def test_alexnets_chain_has_the_known_sizes_and_fields():
    """227 pixels -> 55, 27, 27, 13, 13, 13, 13, 6; the last pooling sees 195 pixels at a stride of 32."""
    pool = LayerSpec(kernel=3, stride=2, pool=True)
    chain = [LayerSpec(kernel=11, stride=4), pool, LayerSpec(kernel=5, padding=2), pool,
             *[LayerSpec(kernel=3, padding=1)] * 3, pool]
    rows = chain_geometry(227, chain)
    assert [row.size for row in rows] == [55, 27, 27, 13, 13, 13, 13, 6]
    assert [row.receptive_field for row in rows] == [11, 19, 51, 67, 99, 131, 163, 195]
    assert (rows[-1].stride, rows[-1].start) == (32, -16 - 3 * 16) and not any(row.problem for row in rows)


@settings(max_examples=60, deadline=None)
@given(chain=st.lists(st.builds(LayerSpec, kernel=st.integers(1, 4), stride=st.integers(1, 2),
                                padding=st.integers(0, 1), dilation=st.integers(1, 2), pool=st.booleans()),
                      min_size=1, max_size=4))
def test_fields_and_starts_are_where_gradients_flow(chain):
    images = torch.ones(1, 1, 120, dtype=torch.float64, requires_grad=True)
    try:
        row = chain_geometry(120, chain)[-1]
    except UserError:
        return
    maps = images
    for layer in chain:
        if layer.pool and layer.dilation == 1:
            maps = F.avg_pool1d(maps, layer.kernel, layer.stride, layer.padding)
        else:  # a pooling with dilation reaches what a convolution reaches
            weight = torch.ones(1, 1, layer.kernel, dtype=torch.float64)
            maps = F.conv1d(maps, weight, None, layer.stride, layer.padding, layer.dilation)
    assert maps.shape[-1] == row.size
    middle = row.size // 2
    maps[0, 0, middle].backward()
    seen = images.grad[0, 0].nonzero().flatten()
    first = row.start + middle * row.stride
    assert seen[0] == max(first, 0) and seen[-1] == min(first + row.receptive_field - 1, 119)


def test_a_filter_that_does_not_fit_is_named():
    with pytest.raises(UserError, match="conv3: kernel=5: the filter spans 5 places, more than the 3"):
        chain_geometry(7, [LayerSpec(kernel=3), LayerSpec(kernel=3), LayerSpec(kernel=5, name="conv3")])
    with pytest.raises(UserError, match="stride=0"):
        conv_output_size(7, 3, 0)
    with pytest.raises(UserError, match="padding=-1"):
        conv_output_size(7, 3, 1, -1)
    with pytest.raises(UserError, match="output_padding=2"):
        transposed_output_size(7, 3, 2, 0, 2)
    with pytest.raises(UserError, match="ceil_mode"):
        chain_geometry(7, [LayerSpec(kernel=3, ceil_mode=True)])
