"""Bases that timm loads."""
