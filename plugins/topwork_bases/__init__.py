"""Bases and data sources: transformers and timm models, rows from files and hubs, samples."""
