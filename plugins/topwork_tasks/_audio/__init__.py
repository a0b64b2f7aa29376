"""Shared code of audio tasks: clips and feature extraction."""
