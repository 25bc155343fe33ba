"""The body box holds the body with a margin, and cropping to it and back loses nothing inside."""

import pytest
import torch

from udig_recon.core.priors.body_box import MARGIN, MULTIPLE, BodyBox


def body(shape, rows, columns):
    image = torch.zeros(1, 2, *shape)
    image[..., rows, columns] = 1.0
    return image


def test_the_box_holds_the_body_and_a_margin():
    box = BodyBox.around(body((128, 96), slice(40, 70), slice(30, 50)))
    assert box.top <= 40 - MARGIN + 2
    assert box.bottom >= 70 + MARGIN - 2
    assert box.left <= 30 - MARGIN + 2
    assert box.right >= 50 + MARGIN - 2
    assert box.bottom - box.top < 128


@pytest.mark.parametrize("shape", [(64, 64), (97, 61), (8, 200), (3, 3)])
@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_the_box_lies_in_the_image_whatever_its_size(shape, place):
    rows, columns = (slice(max(0, int(place * (n - 3))), max(0, int(place * (n - 3))) + 3) for n in shape)
    box = BodyBox.around(body(shape, rows, columns))
    assert 0 <= box.top < box.bottom <= shape[0]
    assert 0 <= box.left < box.right <= shape[1]
    for low, high, size in ((box.top, box.bottom, shape[0]), (box.left, box.right, shape[1])):
        assert (high - low) % MULTIPLE == 0 or high - low == size


def test_single_bright_pixels_are_no_body():
    image = body((96, 96), slice(40, 60), slice(40, 60))
    image[..., 3, 3] = 1.0
    assert BodyBox.around(image).top > 3


@pytest.mark.parametrize("samples", [1, 4])
def test_metal_far_brighter_than_the_body_does_not_hide_it(samples):
    image = 0.5 * body((128, 128), slice(40, 90), slice(30, 80))
    image[..., 60:70, 50:60] = 30.0
    plain = body((128, 128), slice(40, 90), slice(30, 80))
    assert BodyBox.around(image.expand(samples, -1, -1, -1)) == BodyBox.around(plain)


def test_an_empty_image_has_the_whole_as_its_box():
    empty = torch.zeros(2, 1, 40, 50)
    assert BodyBox.around(empty) == BodyBox.whole(empty) == (0, 40, 0, 50)


def test_what_is_cropped_and_padded_is_the_image_in_the_box_and_zero_outside():
    image = torch.randn(2, 2, 96, 96)
    box = BodyBox(8, 64, 16, 80)
    back = box.pad(box.crop(image), image)
    inside = torch.zeros(96, 96, dtype=torch.bool)
    inside[8:64, 16:80] = True
    assert torch.equal(back[..., inside], image[..., inside])
    assert not bool(back[..., ~inside].any())
