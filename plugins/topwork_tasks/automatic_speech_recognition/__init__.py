"""Automatic speech recognition by CTC or by a decoder."""

from topwork_tasks.automatic_speech_recognition.task import SpeechRecognition, register_tasks

__all__ = ["SpeechRecognition", "register_tasks"]
