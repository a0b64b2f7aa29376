"""Edge probing (Tenney et al. 2019): which layer of a frozen model holds what, with control tasks and intervals.

- `stage`: the stage `edge_probing`.
- `labelled_rows`, `preparation`: rows with spans and labels, encoded and run once.
- `states`: hidden states in a file; `ragged`: lists of positions of any length.
- `probe`, `training`: the probes, trained and scored on those states.
- `control`: control tasks; `layer_statistics`: centre of gravity and expected layer; `report`: the result.
"""
