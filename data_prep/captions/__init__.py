"""Captions as text: where they begin and end, how they are written, their tokens."""
