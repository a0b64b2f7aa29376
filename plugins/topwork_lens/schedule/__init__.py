"""Schedules: prune step by step and compare with baselines."""
