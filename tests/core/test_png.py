import io

import numpy as np
import pytest
from PIL import Image

from tests.support import scans
from udig_recon.core.results import png as pictures


def decoded(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"])).astype(float)


def test_picture_is_the_image_the_right_way_up() -> None:
    image = scans.phantom(1, 64)[0]
    shown = decoded(pictures.magnitude_png(image))
    np.testing.assert_allclose(shown, 255 * np.minimum(image / pictures.display_window(image)[1], 1), atol=0.51)
    for flipped in (shown[::-1], shown[:, ::-1], shown.T):
        assert np.corrcoef(flipped.ravel(), image.ravel())[0, 1] < 0.98


def test_units_and_phase_do_not_change_the_picture() -> None:
    image = scans.phantom(1, 64)[0]
    assert pictures.magnitude_png(image * np.exp(2j)) == pictures.magnitude_png(image)
    np.testing.assert_allclose(
        decoded(pictures.magnitude_png(1e-7 * image)), decoded(pictures.magnitude_png(image)), atol=1
    )


def test_negative_attenuation_is_black() -> None:
    image = np.array([[-5.0, 0.0], [0.5, 1.0]])
    np.testing.assert_array_equal(decoded(pictures.magnitude_png(image, (0, 1))), [[0, 0], [128, 255]])


def test_few_bright_pixels_do_not_darken_the_rest() -> None:
    image = scans.phantom(1, 64)[0]
    spoilt = image.copy()
    spoilt[0, :2] = 1000
    assert pictures.display_window(spoilt)[1] < 2 * pictures.display_window(image)[1]


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_image_of_nothing_is_black(value: float) -> None:
    assert not decoded(pictures.magnitude_png(np.full((8, 8), value), (0, 1))).any()
    assert not decoded(pictures.magnitude_png(np.zeros((8, 8)))).any()


def test_error_is_shown_with_its_gain() -> None:
    truth = np.full((8, 8), 10.0)
    np.testing.assert_allclose(decoded(pictures.error_png(truth - 1, truth, gain=5)), 127.5, atol=0.51)
    assert not decoded(pictures.error_png(-truth, truth)).any()


def test_comparison_has_a_titled_panel_per_image_and_its_error_below() -> None:
    truth = scans.phantom(1, 64)[0]
    panels = [("reference", truth), ("plain\n20.0 dB", truth * 0.9), ("ours\n30.0 dB", truth * 0.99)]
    alone = decoded(pictures.comparison_png(panels))
    full = decoded(pictures.comparison_png(panels, reference=truth, gain=5))
    assert full.shape[1] == alone.shape[1] > 3 * 320
    assert full.shape[0] > 2 * 320 > alone.shape[0] > 320
    untitled = decoded(pictures.comparison_png([("", image) for _, image in panels]))
    assert alone[:40].max() == 255
    np.testing.assert_array_equal(alone[-320:], untitled[-320:])
    reference, plain, ours = np.array_split(full[-320:], 3, axis=1)
    assert reference.sum() < ours.sum() < plain.sum()


def test_contact_sheet_shows_every_slice_in_order() -> None:
    volume = np.stack([np.full((32, 32), level, float) for level in (50, 100, 150, 200, 250)])
    sheet = decoded(pictures.contact_sheet_png(volume))
    tiles = [sheet[top : top + 20, left : left + 20] for top in (40, 104) for left in (10, 50, 90)]
    levels = [float(np.median(tile)) for tile in tiles]
    np.testing.assert_allclose(levels, [51, 102, 153, 204, 255, 0], atol=1)


def test_contact_sheet_of_many_slices_stays_of_a_size_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_SHEET", 256)
    sheet = decoded(pictures.contact_sheet_png(np.ones((16, 128, 128), np.float32)))
    assert 256 < max(sheet.shape) < 400


@pytest.mark.parametrize("shape", [(7, 9), (16, 16), (40, 64)])
def test_a_panel_has_room_for_the_busiest_part_and_its_error_twice_as_large(shape: tuple[int, int]) -> None:
    truth = np.ones(shape)
    half = shape[0] // 2, shape[1] // 2
    truth[half[0] :, half[1] :] = np.random.default_rng(0).random((shape[0] - half[0], shape[1] - half[1]))
    top, left = pictures.busiest_corner(truth)
    assert top >= half[0] - 1
    assert left >= half[1] - 1
    side = max(1, min(shape) * 3 // 16)
    right = pictures.add_inset(truth, (top, left), 1, np.zeros(shape))
    assert right.shape == (2 * shape[0], 2 * shape[1])
    assert not right[2 : 2 + 4 * side, -2 - 4 * side : -2].any()  # of what is right there is no error
    panel = decoded(pictures.insets_png("reference", truth, [("right", truth), ("wrong", truth * 0.5)], across=2))
    assert min(panel.shape) > 2 * 320 * min(shape) / max(shape)


def test_a_panel_draws_pixels_of_unlike_sides_as_squares() -> None:
    truth = scans.phantom(1, 40)[0]
    images = [("right", truth), ("wrong", 0.5 * truth)]
    drawn = decoded(pictures.insets_png("reference", truth, images, spacing_mm=(2.0, 1.0)))
    large, *others = (np.repeat(image, 2, axis=0) for image in (truth, truth, 0.5 * truth))
    titled = [(title, image) for (title, _), image in zip(images, others, strict=True)]
    np.testing.assert_allclose(drawn, decoded(pictures.insets_png("reference", large, titled)), atol=2)
    assert drawn.shape != decoded(pictures.insets_png("reference", truth, images)).shape


def test_without_a_reference_a_panel_has_neither_its_tile_nor_an_error() -> None:
    image = scans.phantom(1, 40)[0]
    drawn = decoded(pictures.insets_png("not drawn", None, [("one", image), ("two", 0.5 * image)]))
    known = decoded(pictures.insets_png("one", image, [("two", 0.5 * image)]))
    assert drawn.shape == known.shape
    half = drawn.shape[1] // 2
    np.testing.assert_array_equal(drawn[:, :half], known[:, :half])
    assert not np.array_equal(drawn, known)


def test_an_overlay_is_the_picture_where_nothing_is_hot_and_red_where_it_is_hottest() -> None:
    image = scans.phantom(1, 64)[0]
    heat = np.zeros_like(image)
    heat[:8] = 3.0
    shown = decoded(pictures.overlay_png(image, heat, 2.0))
    assert (shown[:8] == (255, 0, 0)).all()
    np.testing.assert_array_equal(shown[8:], np.repeat(decoded(pictures.magnitude_png(image))[8:, :, None], 3, 2))
