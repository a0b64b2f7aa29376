"""Roles of attention heads: how often the most attended key belongs to a named set of keys.

Voita et al. (2019, section 5.1) call an attention head positional when for nine tenths of the queries its most attended
key stands at one offset. The same is asked here of every set of keys of `attention_patterns.key_sets`, and of the
rarest token (their section 5.3). Entry points: `RoleShares` and `role_lines`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from topwork import AttentionLayer, Json, Units
from topwork_analyses.attention_patterns.key_sets import KeySet
from topwork_analyses.attention_patterns.statistics_of_heads import Means
from topwork_lens.layers.discovery import numbered

#: share of queries that makes a role (Voita et al. 2019, section 5.1)
LEAST = 0.9
#: the same of the rarest token, which a head of theirs points to for 66 % of the queries, and over half elsewhere
LEAST_RARE = 0.5
#: sets of keys that are no role: what is left over, and wide regions
NO_ROLE = ("elsewhere", "around")
#: roles of one attention head whose shares differ by less are one, the one of the smaller set of keys
SAME = 0.02
RARE = "rarest token"


def rare_keys(units: Units, counts: Mapping[str, int], queries: int, keys: int) -> KeySet | None:
    """Return the rarest tokens of a text as a set of keys; None where its positions have no names.

    Args:
        units: with the names of the tokens.
        counts: how often each token stands in all rows.
        queries: of the layer.
        keys: of the layer.
    """
    if len(units.names) != keys:
        return None
    special = set(units.special)
    plain = [index for index in range(keys) if index not in special]
    if len(plain) < 2:
        return None
    rarest = min(counts.get(units.names[index], 0) for index in plain)
    mask = torch.zeros(keys, dtype=torch.bool)
    mask[[index for index in plain if counts.get(units.names[index], 0) == rarest]] = True
    return KeySet(RARE, mask.expand(queries, keys))


def role_shares(
    argmax: torch.Tensor, largest: torch.Tensor, valid: torch.Tensor, sets: Sequence[KeySet]
) -> dict[str, torch.Tensor]:
    """Return the share of queries whose most attended key is in each set of keys, for one item.

    Queries for which a set is empty (the first word has no previous one) are left out.

    Args:
        argmax: [heads, queries], the most attended key.
        largest: [heads, queries], its weight.
        valid: [queries] booleans, queries that are no padding.
        sets: sets of keys.

    Returns:
        [heads] by "share NAME"; "chance NAME", the share of keys in the set; "confidence", the mean largest weight.
    """
    heads = len(argmax)
    shares = {"confidence": largest[:, valid].double().mean(-1)}
    for key_set in sets:
        meant = valid & key_set.mask.any(-1)
        if key_set.queries is not None:
            meant = meant & key_set.queries
        rows = meant.nonzero().flatten()
        if not len(rows):
            continue
        hits = key_set.mask[rows[None].expand(heads, -1), argmax[:, rows]]
        shares[f"share {key_set.name}"] = hits.double().mean(-1)
        chance = key_set.mask[rows].double().mean()
        shares[f"chance {key_set.name}"] = chance.expand(heads)
    return shares


def role_lines(choosing: Means, judging: Means, layers: Sequence[AttentionLayer]) -> list[dict[str, Json]]:
    """Return a line for each attention head with a role on one half of the rows: is it confirmed on the other?

    Args:
        choosing: shares on the rows on which roles are chosen.
        judging: shares on the others.
        layers: the attention layers.
    """
    lines: list[dict[str, Json]] = []
    for (group, number), layer in numbered(layers).items():
        names = [name.removeprefix("share ") for name in choosing.names(layer.path) if name.startswith("share ")]
        # What special tokens attend to is no role of all queries.
        names = [name for name in names if name not in NO_ROLE and " from " not in name]
        for index, head in enumerate(layer.kept):
            candidates = [line for name in names if (line := _line(choosing, judging, layer.path, name, index))]
            key = {"group": group, "layer": number, "head": head}
            lines += [key | line for line in _distinct(candidates)]
    return lines


def _line(choosing: Means, judging: Means, path: str, name: str, index: int) -> dict[str, Json] | None:
    """Return the line of a head and a role; None when the head lacks it on the rows on which roles are chosen."""
    least = LEAST_RARE if name == RARE else LEAST
    chosen, chance = (_at(choosing, path, f"{kind} {name}", index) for kind in ("share", "chance"))
    if chosen is None or chosen < least or (chance or 0.0) >= least:
        return None
    share, half = _at(judging, path, f"share {name}", index), judging.half_width(path, f"share {name}")
    line: dict[str, Json] = {"role": name, "when chosen": chosen, "share": share, "+-": half[index] if half else None}
    line |= {"chance": chance, "confidence": _at(judging, path, "confidence", index)}
    return line | {"confirmed": share is not None and share >= least}


def _distinct(candidates: Sequence[dict[str, Json]]) -> list[dict[str, Json]]:
    """Leave out roles that a role with fewer keys explains as well."""
    return [
        line
        for line in candidates
        if not any(
            other["chance"] < line["chance"] and other["when chosen"] > line["when chosen"] - SAME
            for other in candidates
        )
    ]


def _at(means: Means, path: str, name: str, index: int) -> float | None:
    values = means.mean(path, name)
    return None if values is None else values[index]
