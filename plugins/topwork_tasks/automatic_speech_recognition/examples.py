"""Example rows of automatic-speech-recognition, for documentation and tests."""

from __future__ import annotations

from topwork import Row
from topwork_tasks._audio.clips import tone_clip


def speech_examples() -> list[Row]:
    """Return short songs of three tones; the text names the tones."""
    pitches = {"do": 300.0, "re": 600.0, "mi": 1200.0}
    songs = ("do", "re", "mi", "do re", "re mi", "mi do", "do mi re", "re do mi")
    return [
        {"audio": tone_clip([pitches[name] for name in song.split()], 0.2 * len(song.split())), "text": song}
        for song in songs
    ]
