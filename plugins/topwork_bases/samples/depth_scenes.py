"""Rendered scenes with exact depth: a ground with a checkerboard, a wall behind it, and spheres on the ground.

There is no small real set with depth in any package; in a rendered image the depth of every pixel is known. Depth is
the distance along the optical axis, in metres.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from topwork_bases.samples.generated import generated_rows

SIZE = 64
COUNTS = {"train": 2000, "test": 200}
FOCAL = 60.0  # pixels


def depth_scenes_dataset(split: str) -> Any:
    """Return the scenes of a split, "train" or "test", as a `datasets.Dataset`: columns image, depth."""
    import datasets

    features = {"image": datasets.Image(), "depth": datasets.Image()}
    return generated_rows(depth_views, split, features, [sys.modules[__name__]])


def depth_views(split: str, code: str = "") -> Iterator[dict[str, Any]]:
    """Yield the scenes of a split; the splits come from different seeds.

    Args:
        split: "train" or "test".
        code: not used; part of the key of the cache.

    Yields:
        `image` (RGB, 64 x 64) and `depth` (mode F, metres, 1 to 10).
    """
    import numpy
    from PIL import Image

    random = numpy.random.default_rng(11 if split == "test" else 10)
    for _ in range(COUNTS[split]):
        colours, depth = _scene(random)
        noisy = colours * 255 + random.normal(0, 3, colours.shape)
        yield {
            "image": Image.fromarray(noisy.clip(0, 255).round().astype(numpy.uint8)),
            "depth": Image.fromarray(depth.astype(numpy.float32)),
        }


def _scene(random: Any) -> tuple[Any, Any]:
    """Return the colours, [SIZE, SIZE, 3] in 0..1, and the depth, [SIZE, SIZE], of a scene."""
    import numpy

    height, wall, tilt = random.uniform(0.8, 1.8), random.uniform(4, 10), random.uniform(0.05, 0.3)
    across, down = numpy.meshgrid(numpy.arange(SIZE) - SIZE / 2 + 0.5, numpy.arange(SIZE) - SIZE / 2 + 0.5)
    # rays of a camera that looks down by `tilt`: x right, y down, z ahead, in the world's axes
    local = numpy.stack([across / FOCAL, down / FOCAL, numpy.ones_like(across)], axis=-1)
    cos, sin = numpy.cos(tilt), numpy.sin(tilt)
    rays = numpy.stack(
        [local[..., 0], cos * local[..., 1] + sin * local[..., 2], cos * local[..., 2] - sin * local[..., 1]], axis=-1
    )
    light = numpy.array([random.uniform(-0.6, 0.6), -1.0, random.uniform(-0.8, -0.2)])
    light /= numpy.linalg.norm(light)
    colours, depth = _room(random, rays, height, wall, light)
    for _ in range(int(random.integers(1, 5))):
        radius = random.uniform(0.2, 0.7)
        ahead = random.uniform(1.8 + radius, wall - radius)
        side = random.uniform(-0.45, 0.45) * ahead
        centre = numpy.array([side, height - radius, ahead])
        _add_sphere(colours, depth, rays, centre, radius, random.uniform(0.15, 1.0, 3), light)
    return colours, depth


def _room(random: Any, rays: Any, height: float, wall: float, light: Any) -> tuple[Any, Any]:
    """Return colours and depth of the ground at `height` below the camera and the wall `wall` ahead of it."""
    import numpy

    with numpy.errstate(divide="ignore"):
        to_ground = numpy.where(rays[..., 1] > 1e-6, height / rays[..., 1], numpy.inf)
    to_wall = wall / rays[..., 2]
    is_ground = to_ground < to_wall
    depth = numpy.minimum(to_ground, to_wall)
    points = rays * depth[..., None]
    tile = random.uniform(0.4, 0.6)
    shift = random.uniform(0, 1, 2)
    cells = numpy.floor(points[..., 0] / tile + shift[0]) + numpy.floor(
        numpy.where(is_ground, points[..., 2], points[..., 1]) / tile + shift[1]
    )
    dark = (cells % 2 == 0)[..., None]
    ground, back = random.uniform(0.3, 0.9, 3), random.uniform(0.3, 0.9, 3)
    plain = numpy.where(is_ground[..., None], ground * (0.4 - 0.6 * light[1]), back * (0.4 - 0.6 * light[2]))
    return plain * numpy.where(dark, 0.75, 1.0), depth


def _add_sphere(colours: Any, depth: Any, rays: Any, centre: Any, radius: float, colour: Any, light: Any) -> None:
    """Lay a sphere into the scene where it is nearer than what is there: the smaller t with |t ray - centre| = r."""
    import numpy

    square, half = (rays**2).sum(-1), (rays * centre).sum(-1)
    inside = half**2 - square * ((centre**2).sum() - radius**2)
    distance = (half - numpy.sqrt(numpy.maximum(inside, 0))) / square
    hit = (inside > 0) & (distance > 0) & (distance < depth)
    normal = (rays * distance[..., None] - centre) / radius
    shade = 0.3 + 0.7 * numpy.clip((normal * light).sum(-1), 0, 1)
    colours[hit] = (colour * shade[..., None])[hit]
    depth[hit] = distance[hit]
