"""Recipes: reading (`yaml`, `overrides`), validation (`validation`, `checks`, `data`), the JSON schema (`schema`)."""

from topwork.recipe.recipe import Recipe, load_recipe

__all__ = ["Recipe", "load_recipe"]
