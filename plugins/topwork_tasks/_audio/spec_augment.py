"""SpecAugment (Park et al. 2019, arXiv 1904.08779) fitted to the length of clips.

transformers masks frames of training clips by config entries made for clips of many seconds: 2 masks of 10 frames hide
four fifths of a clip of 25 frames. `fit_masks` shortens them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from topwork_tasks._audio.frontend import Frontend

SpecAugment = Literal["auto", "config", "off"]
#: largest share of the frames of short clips that masks may cover
LARGEST_SHARE = 0.15
SPEC_AUGMENT_HELP = (
    "masks over frames of training clips, where the base's config has them. auto: shortened so that they cover at most "
    f"{LARGEST_SHARE:.0%} of a short clip; config: as the config says; off: none"
)


def fit_masks(
    option: SpecAugment, frontend: Frontend, config: Any, lengths: Sequence[int], notes: list[str]
) -> dict[str, Any]:
    """Return the config entries that fit the masks to clips; none where they fit, or where the config has no masks.

    Args:
        option: the option `spec_augment`.
        frontend: the clips as the network takes them.
        config: the base's config, with its masks.
        lengths: samples of training clips; a tenth of them may be shorter than what masks are fitted to.
        notes: gets a sentence where masks cover a large share of the frames.
    """
    # transformers reads a missing `apply_spec_augment` (data2vec's config has none) as True
    if not getattr(config, "apply_spec_augment", True) or not getattr(config, "mask_time_prob", 0):
        return {}
    if option == "off":
        return {"apply_spec_augment": False}
    if frontend.window is not None or not lengths:
        return {}
    frames = frontend.frame_count(sorted(lengths)[len(lengths) // 10])
    length, least = int(config.mask_time_length), int(getattr(config, "mask_time_min_masks", 0) or 0)
    share = min(1.0, max(least, config.mask_time_prob * frames / length) * length / max(1, frames))
    if share <= max(LARGEST_SHARE, config.mask_time_prob):
        return {}
    hidden = f"SpecAugment hides {share:.0%} of clips of {frames} frames (masks of {length} frames, {least} or more)"
    if option == "config":
        notes.append(f"{hidden}: `spec_augment: auto` shortens its masks")
        return {}
    fitted = max(1, int(LARGEST_SHARE * frames / max(1, least)))
    count = min(least, int(LARGEST_SHARE * frames / fitted))
    notes.append(f"{hidden}: its masks are shortened to {fitted}, {count} or more; `spec_augment: config` keeps them")
    return {"mask_time_length": fitted, "mask_time_min_masks": count}
