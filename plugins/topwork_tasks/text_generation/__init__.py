"""Causal language modelling and text generation."""

from topwork_tasks.text_generation.task import TextGeneration, TextGenerationOptions, register_tasks

__all__ = ["TextGeneration", "TextGenerationOptions", "register_tasks"]
