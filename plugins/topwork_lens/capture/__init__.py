"""Capture: attention weights, what they reduce to, contexts, hidden states and gradients, while a model runs.

- `capture`: `Capture`, the block in which a model is watched (behind `Look.capture`).
- `arguments`: checks of what a caller asks for.
- `interception`: each attention computation of the watched layers, by `interface`, `tracing` and torch's kernels.
- `attention_call`: one such computation, and how its weights can be computed again.
- `tensors`: queries, keys, values, weights and masks in one form; products of two.
- `operands`: queries, keys, values, scores and weights, read and replaced.
- `verification`: weights @ values must be the context.
- `head_slices`: a slice of the context must be the output of one attention head.
- `reductions`, `fast_reductions`: what weights are reduced to, block by block.
- `result`: `Captured`, what was seen.
- `keys`: the keys whose share of attention sums up; `tokens`: which of them are special.
- `windows`: what was captured of windowed attention, in the order of the image.
- `undescribed`: attention that runs where no layer is described.
"""
