"""Bases that transformers loads."""
