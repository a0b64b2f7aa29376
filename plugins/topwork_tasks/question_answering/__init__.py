"""Extractive question answering."""

from topwork_tasks.question_answering.task import QuestionAnswering, QuestionAnsweringOptions, register_tasks

__all__ = ["QuestionAnswering", "QuestionAnsweringOptions", "register_tasks"]
