"""Attribution patching and direct attribution: which attention heads make a number of the outputs.

- `attribution`: estimates for all attention heads in two forward passes and one backward, beside exact patches.
- `direct`: what each write to the residual stream adds to a number, the final norm frozen.
- `stage`: both as stages, `options` theirs; `study` and `direct_study` feed them rows.
"""
