"""JPEG by simplejpeg: the bits of Pillow, at every size, or Pillow itself."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tests.image_zoo import write_zoo
from visus.core import images, jpeg
from visus.core.errors import ImageError
from visus.core.images import Part, read_image, read_part
from visus.core.jpeg import REDUCTIONS, decode_jpeg, jpeg_decoder, jpeg_layout

needs_simplejpeg = pytest.mark.skipif(not jpeg.fast_jpeg(), reason="simplejpeg (extra fast) is not installed")


def scene(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5))


def encoded(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **{"quality": 85} | options)
    return file.getvalue()


def drafted(data: bytes, reduction: int) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    if reduction > 1:
        image.draft(image.mode, (image.width // reduction, image.height // reduction))
    pixels = np.array(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


@pytest.fixture
def without_simplejpeg(monkeypatch):
    monkeypatch.setattr(jpeg, "_simplejpeg", lambda: None)


@needs_simplejpeg
@pytest.mark.parametrize("size", [(97, 61), (64, 48), (33, 130), (16, 16)])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0", "4:1:1"])
def test_pixels_are_those_of_pillow_at_each_reduction_and_for_the_first_rows(size, subsampling):
    for progressive, grey in itertools.product((False, True), (False, True)):
        image = scene(*size)
        data = encoded(image.convert("L") if grey else image, progressive=progressive, subsampling=subsampling)
        layout = jpeg_layout(data)
        assert (layout.width, layout.height, layout.components) == (*size, 1 if grey else 3)
        assert layout.sequential is not progressive
        for reduction in REDUCTIONS:
            expected = drafted(data, reduction)
            assert np.array_equal(decode_jpeg(data, layout, reduction), expected)
            for last in {1, len(expected) // 2, len(expected)}:
                rows = decode_jpeg(data, layout, reduction, last)
                assert len(rows) >= last and np.array_equal(rows[:last], expected[:last])


@needs_simplejpeg
def test_rows_below_the_last_one_are_not_decoded_where_the_coding_allows_it():
    data = encoded(scene(64, 400))
    assert len(decode_jpeg(data, jpeg_layout(data), 1, 40)) == 48
    data = encoded(scene(64, 400), progressive=True)
    assert len(decode_jpeg(data, jpeg_layout(data), 1, 40)) == 400


@pytest.mark.parametrize("change", [
    lambda d: d[:-2], lambda d: d[:200], lambda d: b"\xff\xd8\xff\xd9", lambda d: d.replace(b"\xff\xda", b"\xff\xd8"),
    lambda d: d[:20] + b"\0" + d[21:], lambda d: encoded(scene(20, 20).convert("CMYK")), lambda d: b"",
    lambda d: b"\x89PNG"],
    ids=["no end", "cut", "empty", "no scan", "no marker", "CMYK", "nothing", "PNG"])
def test_unusual_files_have_no_layout(change):
    assert jpeg_layout(change(encoded(scene(40, 30)))) is None


def test_several_pictures_in_one_file_are_left_to_pillow():
    file = io.BytesIO()
    scene(20, 20).save(file, "MPO", save_all=True, append_images=[scene(20, 20, 1)])
    assert jpeg_layout(file.getvalue()) is None
    assert "2 frames, the first is used" in read_image(file.getvalue()).notes


@needs_simplejpeg
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_turns_pixels_and_parts_alike_whoever_decodes(orientation, monkeypatch):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(scene(70, 40), exif=exif)
    part = Part(10, 16, 12, 20, 2)
    quick, cut = read_image(data), read_part(data, lambda height, width: part)
    monkeypatch.setattr(jpeg, "_simplejpeg", lambda: None)
    slow = read_image(data)
    assert np.array_equal(quick.pixels, slow.pixels) and quick.notes == slow.notes
    assert (len(quick.notes) == 1) == (orientation > 1)
    assert np.array_equal(cut.pixels, read_part(data, lambda height, width: part).pixels)
    assert cut.pixels.shape == (6, 10, 3)


@needs_simplejpeg
def test_every_odd_file_gives_the_same_pixels_notes_or_refusal_whoever_decodes(tmp_path, monkeypatch):
    def outcome(path: str) -> tuple:
        try:
            found = read_image(path)
        except ImageError as error:
            return error.problem, error.where, error.remedy
        return found.pixels.shape, found.pixels.tobytes(), found.notes

    paths = [case.path(tmp_path) for case in write_zoo(tmp_path / "zoo")]
    quick = [outcome(path) for path in paths]
    monkeypatch.setattr(jpeg, "_simplejpeg", lambda: None)
    assert quick == [outcome(path) for path in paths]


@needs_simplejpeg
@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_mutated_files_give_the_same_outcome_whoever_decodes(monkeypatch, count):
    rng = np.random.default_rng(0)
    seeds = [encoded(scene(40, 30)), encoded(scene(40, 30), progressive=True), encoded(scene(24, 24).convert("L"))]

    def outcome(data: bytes) -> tuple:
        try:
            found = read_image(data)
        except ImageError as error:
            return (error.problem,)
        return found.pixels.shape, found.pixels.tobytes(), found.notes

    found = jpeg._simplejpeg
    for number in range(count):
        data = bytearray(seeds[number % len(seeds)])
        for place in rng.integers(0, len(data) if number % 2 else min(700, len(data)), rng.integers(1, 4)):
            data[place] = rng.integers(256)
        if number % 7 == 0:
            del data[rng.integers(len(data)):]
        data = bytes(data)
        quick = outcome(data)
        monkeypatch.setattr(jpeg, "_simplejpeg", lambda: None)
        assert quick == outcome(data), f"file {number}"
        monkeypatch.setattr(jpeg, "_simplejpeg", found)


# -- parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["JPEG", "PNG", "grey JPEG"])
@pytest.mark.parametrize("decoder", ["simplejpeg", "Pillow"])
def test_a_part_at_full_size_is_a_cut_of_the_whole(form, decoder, monkeypatch):
    if decoder == "Pillow":
        monkeypatch.setattr(jpeg, "_simplejpeg", lambda: None)
    file = io.BytesIO()
    (scene(50, 90).convert("L") if "grey" in form else scene(50, 90)).save(file, form.split()[-1])
    seen = []
    part = read_part(file.getvalue(), lambda height, width: seen.append((height, width)) or Part(7, 11, 20, 30))
    assert seen == [(90, 50)]
    assert np.array_equal(part.pixels, read_image(file.getvalue()).pixels[7:27, 11:41])


def test_a_reduced_part_has_every_reduced_pixel_that_the_box_touches(without_simplejpeg):
    file = io.BytesIO()
    image = scene(50, 90)
    image.save(file, "PNG")
    part = read_part(file.getvalue(), lambda height, width: Part(7, 11, 20, 39, 4)).pixels
    whole = np.array(image.reduce(4))
    assert part.shape == (6, 11, 3) and np.array_equal(part, whole[1:7, 2:13])


def test_a_truncated_file_is_refused_in_part_as_in_whole():
    data = encoded(scene(64, 200))[:-400]
    for read in (lambda: read_image(data), lambda: read_part(data, lambda h, w: Part(0, 0, 8, 8))):
        with pytest.raises(ImageError, match="truncated"):
            read()


def test_the_decoder_is_named():
    assert jpeg_decoder().split()[0] in ("simplejpeg", "Pillow") and jpeg_decoder().split()[1][0].isdigit()


def test_without_simplejpeg_all_is_pillow(without_simplejpeg):
    data = encoded(scene(40, 30))
    assert jpeg_decoder().startswith("Pillow") and decode_jpeg(data, jpeg_layout(data)) is None
    assert np.array_equal(read_image(data).pixels, drafted(data, 1)) and not images.fast_jpeg()
