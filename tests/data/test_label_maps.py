from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from visus.core.errors import DataError, UserError
from visus.data.label_maps import colour_code, colour_name, read_label_map, read_values
from visus.data.objects import LabelMaps

VALUES = np.array([[0, 1, 2], [1, 2, 255]], np.uint8)


def saved(path: Path, values: np.ndarray, mode: str | None = None, palette: list[int] | None = None) -> LabelMaps:
    image = Image.fromarray(values)
    if palette is not None:
        image.putpalette(palette)
    (image if mode is None else image.convert(mode)).save(path)
    return LabelMaps(paths=(path.name,), root=str(path.parent), table={0: 0, 1: 1, 2: 2, 255: -1})


def refused(maps: LabelMaps, *words: str, **options) -> None:
    with pytest.raises(DataError) as caught:
        read_label_map(maps, 0, **options)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert caught.value.where and caught.value.remedy


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.pgm"])
def test_grey_levels_are_the_values_in_every_lossless_kind_of_file(tmp_path, name):
    labels = read_label_map(saved(tmp_path / name, VALUES), 0, size=(2, 3))
    assert labels.dtype == np.uint8 and labels.tolist() == VALUES.tolist()


def test_a_palette_gives_its_places_whatever_the_order_of_its_colours(tmp_path):
    maps = saved(tmp_path / "a.png", VALUES, palette=[*np.random.default_rng(0).permutation(768) % 256])
    assert read_label_map(maps, 0).tolist() == VALUES.tolist()


def test_one_bit_sixteen_bits_and_grey_in_colour_files_hold_numbers_too(tmp_path):
    maps = saved(tmp_path / "a.png", VALUES == 1)
    assert read_label_map(maps, 0).tolist() == (VALUES == 1).astype(int).tolist()
    assert read_label_map(saved(tmp_path / "b.png", VALUES.astype(np.uint16)), 0).tolist() == VALUES.tolist()
    assert read_label_map(saved(tmp_path / "c.png", np.stack([VALUES] * 3, -1)), 0).tolist() == VALUES.tolist()
    assert read_label_map(saved(tmp_path / "d.png", np.stack([VALUES, VALUES * 0], -1)), 0).tolist() == VALUES.tolist()


def test_the_table_renames_and_255_stays_ignored(tmp_path):
    saved(tmp_path / "a.png", VALUES)
    maps = LabelMaps(paths=("a.png",), root=str(tmp_path), table={0: -1, 1: 4, 2: 0, 255: 7})
    assert read_label_map(maps, 0).tolist() == [[255, 4, 0], [4, 0, 7]]


def test_more_than_254_classes_are_int32_and_ignored_is_minus_one(tmp_path):
    values = np.array([[0, 300], [255, 65535]], np.uint16)
    maps = saved(tmp_path / "a.png", values)
    table = {k: k for k in range(301)} | {65535: -1}
    labels = read_label_map(LabelMaps(paths=maps.paths, root=maps.root, table=table), 0)
    assert labels.dtype == np.int32 and labels.tolist() == [[0, 300], [255, -1]]
    few = LabelMaps(paths=maps.paths, root=maps.root, table={0: 0, 300: 1, 255: 2, 65535: -1})
    assert read_label_map(few, 0).dtype == np.uint8 and read_label_map(few, 0, num_classes=255).dtype == np.int32


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_looked_up_in_colour_and_in_palette_files(tmp_path, mode):
    colours = np.array([(10, 20, 30), (0, 255, 7), (0, 0, 0)], np.uint8)
    picture = Image.fromarray(colours[VALUES % 3])
    (picture.quantize(3) if mode == "P" else picture.convert(mode)).save(tmp_path / "a.png")
    table = {colour_code(*map(int, c)): k for k, c in enumerate(colours)}
    maps = LabelMaps(paths=("a.png",), root=str(tmp_path), table=table, colours=True)
    assert read_label_map(maps, 0).tolist() == (VALUES % 3).tolist()
    assert colour_name(colour_code(10, 20, 30)) == "#0a141e"


def test_tables_of_each_image_serve_panoptic_maps(tmp_path):
    codes = np.array([[(1, 0, 0), (0, 1, 0)], [(1, 1, 0), (0, 0, 0)]], np.uint8)
    Image.fromarray(codes).save(tmp_path / "a.png")
    maps = LabelMaps(paths=("a.png", "a.png"), root=str(tmp_path), colours=True, table={0: -1},
                     per_image=({1: 5, 256: 6, 257: 5}, {1: 0}))
    assert read_label_map(maps, 0, num_classes=7).tolist() == [[5, 6], [5, 255]]
    with pytest.raises(DataError, match="#000100"):
        read_label_map(maps, 1)


def test_an_image_without_a_map_is_ignored_all_over():
    maps = LabelMaps(paths=("",), root=None, table={0: 0})
    assert read_label_map(maps, 0, size=(2, 3)).tolist() == [[255] * 3] * 2
    refused(maps, "image 0")


def test_large_maps_are_looked_up_in_parts_and_equal_a_plain_look_up(tmp_path):
    values = np.random.default_rng(0).integers(0, 3, (1500, 1100)).astype(np.uint8)
    maps = saved(tmp_path / "a.png", values)
    maps = LabelMaps(paths=maps.paths, root=maps.root, table={0: 2, 1: 0, 2: -1})
    np.testing.assert_array_equal(read_label_map(maps, 0), np.array([2, 0, 255], np.uint8)[values])
    values[-1, -1], values[0, 0] = 9, 9
    saved(tmp_path / "a.png", values)
    refused(maps, "1 value that", "9 (2 pixels, nearest 2)")


def test_unknown_values_are_listed_with_their_pixels_and_the_nearest(tmp_path):
    two = saved(tmp_path / "a.png", np.array([[0, 7], [7, 200]], np.uint8))
    refused(two, "a.png", "2 values", "7 (2 pixels, nearest 2)", "200 (1 pixels, nearest 255)")
    many = saved(tmp_path / "b.png", np.arange(256, dtype=np.uint8).reshape(16, 16))
    refused(many, "252 values", "and 242 more")
    Image.new("RGB", (2, 2), (63, 128, 65)).save(tmp_path / "c.png")
    maps = LabelMaps(paths=("c.png",), root=str(tmp_path), colours=True,
                     table={colour_code(64, 128, 64): 0, colour_code(192, 0, 128): 1})
    refused(maps, "#3f8041 (4 pixels, nearest #408040)")


def test_another_size_a_jpeg_colours_floats_and_damage_are_refused(tmp_path):
    maps = saved(tmp_path / "a.png", VALUES)
    refused(maps, "has 3 x 2 pixels, its image 9 x 8", size=(8, 9))
    refused(maps, "turned by EXIF", size=(3, 2))
    Image.fromarray(VALUES).save(tmp_path / "a.jpg")
    refused(LabelMaps(paths=("a.jpg",), root=str(tmp_path)), "JPEG", "changes values")
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "b.png")
    refused(LabelMaps(paths=("b.png",), root=str(tmp_path)), "holds colours", "classes.csv")
    Image.fromarray(VALUES.astype(np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DataError, match="f.tif.*floating-point"):
        read_values(str(tmp_path / "f.tif"))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[:-25])
    refused(LabelMaps(paths=("cut.png",), root=str(tmp_path)), "cut.png")
    refused(LabelMaps(paths=("none.png",), root=str(tmp_path)), "no such file")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_whatever_the_bytes_only_user_errors_are_raised(tmp_path_factory, data):
    path = Path(tmp_path_factory.getbasetemp()) / "map-fuzz.png"
    maps = saved(path, VALUES, palette=list(range(256)) * 3 if data.draw(st.booleans()) else None)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at:at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    path.write_bytes(content)
    try:
        assert read_label_map(maps, 0).ndim == 2
    except UserError as error:
        assert error.where
