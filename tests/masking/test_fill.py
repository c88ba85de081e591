"""Fills in closed form, and masked images of kept and removed pixels."""

import math

import pytest
import torch

from ltx.masking.fill import FILLS, Fill, gaussian_blur, keep
from ltx.runtime.errors import InputError
from ltx.runtime.seeds import row_generators


def images(count: int = 4, height: int = 20, width: int = 28) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_masked_image_is_the_image_where_kept_and_the_background_elsewhere() -> None:
    x, background = images(), images().flip(0)
    mask = torch.zeros(4, 1, 20, 28)
    mask[..., :14] = 1
    mask[..., 20:] = 0.25
    masked_image = keep(x, mask, background)
    assert torch.equal(masked_image[..., :14], x[..., :14])
    assert torch.equal(masked_image[..., 14:20], background[..., 14:20])
    torch.testing.assert_close(masked_image[..., 20:], 0.25 * x[..., 20:] + 0.75 * background[..., 20:])
    torch.testing.assert_close(keep(x, mask, background) + keep(x, 1 - mask, background), x + background)


@pytest.mark.parametrize(
    ("x", "mask", "message"),
    [
        (torch.zeros(2, 4, 20, 28), torch.zeros(2, 1, 20, 28), r"^background is .*; give float \[2, 4, 20, 28\]"),
        (torch.zeros(2, 3, 20, 28).byte(), torch.zeros(2, 1, 20, 28), "^images is uint8"),
        (torch.zeros(1, 3, 20, 28), torch.zeros(2, 1, 20, 28), "^background is .*, to fit images"),
        (torch.zeros(2, 3, 20, 28), torch.zeros(2, 1, 20, 28) > 0, "^mask is bool"),
        (torch.zeros(2, 3, 20, 28), torch.zeros(2, 1, 10, 14), "^mask is float32 .*, to fit images"),
        (torch.zeros(2, 3, 20, 28), torch.zeros(2, 1, 20, 28).double(), "^images of torch.float32, a mask of .*64"),
    ],
)
def test_masked_images_of_tensors_that_do_not_fit(x: torch.Tensor, mask: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        keep(x, mask, torch.zeros(2, 3, 20, 28))


def test_black_and_mean_fills() -> None:
    x = images()
    assert torch.equal(Fill("black")(x), torch.zeros_like(x))
    mean = Fill("mean")(x)
    torch.testing.assert_close(mean[1, 2], x[1, 2].mean().expand(20, 28))
    assert mean.shape == x.shape


def test_blur_keeps_images_of_one_pixel() -> None:
    x = images(2, 1, 1)
    assert torch.equal(Fill("blur")(x), x)


def test_blur_of_a_point_is_the_gaussian_and_blur_keeps_constants() -> None:
    point = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    point[..., 20, 20] = 1
    sigma = 3.0
    blurred = gaussian_blur(point, sigma)[0, 0]
    line = [math.exp(-0.5 * (offset / sigma) ** 2) for offset in range(-9, 10)]
    line = torch.tensor(line, dtype=torch.float64) / sum(line)
    torch.testing.assert_close(blurred[11:30, 11:30], line[:, None] * line)
    assert blurred[:11].abs().max() == 0
    constant = torch.full((1, 3, 20, 28), 0.3)
    torch.testing.assert_close(gaussian_blur(constant, 50.0), constant)  # wider than the image


def test_blur_sigma_is_a_fraction_of_the_shorter_side() -> None:
    torch.testing.assert_close(Fill("blur", blur_sigma=0.1)(images()), gaussian_blur(images(), 2.0))


def test_noise_has_the_mean_and_standard_deviation_of_each_channel() -> None:
    x = 0.5 + 0.1 * (images(2, 120, 120) - 0.5)
    x[:, 1] += 0.2
    noise = Fill("noise")(x, generator())
    torch.testing.assert_close(noise.mean((2, 3)), x.mean((2, 3)), atol=2e-3, rtol=0)
    torch.testing.assert_close(noise.std((2, 3)), x.std((2, 3)), atol=2e-3, rtol=0)
    assert noise[0].sub(noise[1]).abs().max() > 0.05  # each image has its own draw
    wide = Fill("noise")(images(), generator())
    assert wide.min() == 0
    assert wide.max() == 1


def test_random_fill_draws_one_fill_per_image() -> None:
    x = images(64, 8, 8)
    backgrounds = Fill("random")(x, generator())
    counts = dict.fromkeys(FILLS, 0)
    exact = {name: Fill(name)(x) for name in ("black", "mean", "blur")}
    for index in range(64):
        matches = [name for name, background in exact.items() if torch.equal(background[index], backgrounds[index])]
        counts[matches[0] if matches else "noise"] += 1
    assert min(counts.values()) >= 6, counts
    assert torch.equal(backgrounds, Fill("random")(x, generator()))
    assert not torch.equal(backgrounds, Fill("random")(x, generator(1)))


@pytest.mark.parametrize("name", ["noise", "random", ["noise", "mean"]])
def test_shared_draw_does_not_depend_on_the_other_images(name: str | list[str]) -> None:
    x = images()
    fill = Fill(name)
    for seed in range(4):
        batch = fill(x, generator(seed), shared=True)
        loop = torch.cat([fill(one, generator(seed), shared=True) for one in x.split(1)])
        torch.testing.assert_close(batch, loop, atol=1e-6, rtol=0)


def test_list_of_fills_draws_only_its_members() -> None:
    backgrounds = Fill(["black", "mean"])(images(16), generator())
    assert {len(image.unique()) for image in backgrounds} == {1, 3}


@pytest.mark.parametrize("name", ["grey", ["black", "grey"], []])
def test_unknown_fill_is_refused_by_name(name: str | list[str]) -> None:
    with pytest.raises(InputError, match=r"fill.*allowed: black, mean, blur, noise, random"):
        Fill(name)


def test_different_seeds_give_different_row_generators() -> None:
    position = torch.tensor([3])
    seeds = [row_generators(seed, position)[0].initial_seed() for seed in (0, 1, 2**23, 2**24, 2**63 - 1)]
    assert len(set(seeds)) == 5
    assert seeds[:2] == [3, 2**40 + 3]


def test_several_masks_per_image_give_the_masked_images_of_each() -> None:
    x, background = images(2, 6, 5), images(2, 6, 5).flip(3)
    masks = torch.rand(3, 2, 1, 6, 5, generator=torch.Generator().manual_seed(1))
    masked = keep(x, masks, background)
    assert all(torch.equal(part, keep(x, mask, background)) for part, mask in zip(masked, masks, strict=True))
    torch.testing.assert_close(masked[2], masks[2] * x + (1 - masks[2]) * background)
