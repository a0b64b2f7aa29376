"""Automatic speech recognition by CTC or by a decoder.

- `task`: the task; `options`: its options, form and tokenizer; `examples`: example rows.
- `ctc`: vocabulary of letters, targets, loss, chunks, text of frames; `ctc_head`: task head for any audio backbone.
- `whisper`: tokenizer, targets, losses and generation of a decoder; `word_times`: times of its words.
- `transcripts`: texts, error rates, drawings.
"""

from topwork_tasks.automatic_speech_recognition.task import SpeechRecognition

__all__ = ["SpeechRecognition"]
