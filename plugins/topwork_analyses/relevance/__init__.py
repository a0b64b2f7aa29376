"""Relevance of input positions: rollout, flow, norms, gradients of attention; with numbers of faithfulness."""
