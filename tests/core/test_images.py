from __future__ import annotations

import os
import resource
import threading
import time
import warnings

import numpy as np
import pytest
from PIL import Image

from tests.image_zoo import cases, encoded, photo, tree_state, write_zoo
from visus.core.errors import ImageError
from visus.core.images import MAX_PIXELS, looks_like_image, read_header, read_image

CASES = cases()


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    write_zoo(folder)
    return folder


def test_the_zoo_has_all_sorts():
    assert len(CASES) >= 66
    assert sum(case.refused is not None for case in CASES) >= 25


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.file)[:30])
def test_each_odd_file_gives_the_right_pixels_or_a_named_refusal(case, zoo):
    path = os.fsdecode(case.path(zoo))
    start = time.perf_counter()
    if case.pixels is None:
        with pytest.raises(ImageError) as caught:
            read_image(path)
        assert case.refused in caught.value.problem
        assert caught.value.remedy and caught.value.where and "zoo" in caught.value.where
        assert time.perf_counter() - start < 1.0
        return
    read = read_image(path)
    assert read.pixels.dtype == np.uint8 and read.pixels.shape == case.pixels.shape
    assert np.abs(read.pixels.astype(int) - case.pixels).max() <= case.tolerance
    if case.note is not None:
        assert [note for note in read.notes if case.note in note]
    header = read_header(path)
    assert (header.height, header.width, header.channels) == case.pixels.shape


def test_nothing_is_written_beside_the_images(zoo):
    before = tree_state(zoo)
    for case in CASES:
        try:
            read_image(os.fsdecode(case.path(zoo)))
        except ImageError:
            pass
    assert tree_state(zoo) == before


def test_bombs_are_refused_without_unpacking_them(zoo):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name in ("bomb.png", "lie.png", "lie.ppm", "text-bomb.png", "profile-bomb.png"):
        with pytest.raises(ImageError):
            read_image(zoo / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10  # KiB


def test_bytes_and_file_give_equal_pixels(zoo):
    data = (zoo / "exif-6.jpg").read_bytes()
    np.testing.assert_array_equal(read_image(data).pixels, read_image(zoo / "exif-6.jpg").pixels)
    with pytest.raises(ImageError, match="upload"):
        read_image(b"", name="upload")


@pytest.mark.parametrize("background, name", [((0, 0, 0), "black"), ((10, 200, 30), "RGB")])
def test_alpha_is_composited_on_the_stated_background(zoo, background, name):
    read = read_image(zoo / "alpha.png", background=background)
    share = np.linspace(0, 255, photo().shape[1]).astype(np.uint8)[None, :, None] / 255
    np.testing.assert_array_equal(read.pixels, np.rint(photo() * share + np.array(background) * (1 - share)))
    assert name in read.notes[0]


def test_limits_are_parameters():
    data = encoded(Image.new("RGB", (30, 20)), "PNG")
    with pytest.raises(ImageError, match="megapixels"):
        read_image(data, max_pixels=599)
    assert read_image(data, max_pixels=600).pixels.shape == (20, 30, 3)
    with pytest.raises(ImageError, match="under the limit of 21"):
        read_image(data, min_side=21)
    with pytest.raises(ImageError, match="more than 1.4 times"):
        read_image(data, max_aspect=1.4)


def test_folder_missing_file_and_impossible_name_are_refused_by_name(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    for path, problem in ((tmp_path / "x.jpg", "is a folder"), (tmp_path / "no.jpg", "no such file"),
                          ("a\0b.jpg", "not a possible file name")):
        with pytest.raises(ImageError, match=problem):
            read_image(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_refused_by_name(tmp_path):
    path = tmp_path / "x.png"
    path.write_bytes(encoded(Image.new("RGB", (4, 4)), "PNG"))
    path.chmod(0)
    with pytest.raises(ImageError, match="Permission denied"):
        read_image(path)


def test_pillow_is_left_as_it_was_found(zoo):
    limit, filters = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    names = [os.fsdecode(case.path(zoo)) for case in CASES if case.pixels is not None]

    def read_all():
        for name in names:
            read_image(name)

    threads = [threading.Thread(target=read_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert limit == Image.MAX_IMAGE_PIXELS and warnings.filters == filters


def test_a_large_image_under_our_limit_but_over_pillows_is_read_without_a_warning():
    data = encoded(Image.new("1", (10_000, 9_000)), "PNG")
    assert Image.MAX_IMAGE_PIXELS < 90_000_000 < MAX_PIXELS
    assert read_image(data).pixels.shape == (9_000, 10_000, 1)


def test_a_flipped_bit_in_jpeg_data_is_read_or_refused_never_another_error():
    data = bytearray(encoded(Image.fromarray(photo()), "JPEG", quality=90))
    rng = np.random.default_rng(0)
    for place in rng.integers(2, len(data), 300):
        broken = bytearray(data)
        broken[place] ^= 1 << int(rng.integers(8))
        try:
            read_image(bytes(broken))
        except ImageError as error:
            assert error.remedy


@pytest.mark.parametrize("format", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
def test_cut_and_damaged_bytes_of_each_format_raise_nothing_but_image_errors(format):
    data = encoded(Image.fromarray(photo()), format)
    rng = np.random.default_rng(1)
    for _ in range(60):
        broken = bytearray(data[:int(rng.integers(1, len(data) + 1))])
        for place in rng.integers(0, len(broken), 3):
            broken[place] = rng.integers(256)
        try:
            read_image(bytes(broken))
        except ImageError as error:
            assert error.remedy


def test_looks_like_image_goes_by_content_and_never_opens_a_fifo(zoo):
    assert looks_like_image(str(zoo / "no-extension"))
    assert not looks_like_image(str(zoo / "text.jpg"))
    assert not looks_like_image(str(zoo / "fifo.jpg"))
