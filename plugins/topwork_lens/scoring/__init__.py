"""Scoring: the importance of attention heads by gradients, ablation and Shapley values."""
