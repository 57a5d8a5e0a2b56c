"""Spoken numbers as an .npz, spoken by espeak-ng (apt install espeak-ng, or brew, or its installer).

    python examples/speech.py speech.npz

Every number from 0 to 99 in several voices and speeds, cut or padded to one second at 8 kHz.
"""

import io
import subprocess
import sys
import wave

import numpy as np

NUMBERS = range(100)
VOICES = ("en-us+m1", "en-us+m3", "en-us+f1", "en-us+f3")
WORDS_PER_MINUTE = (150, 190)
RATE = 8192  # samples per second; a power of two, so that every stride divides it


def main(output: str) -> None:
    values, captions = [], []
    for voice in VOICES:
        for speed in WORDS_PER_MINUTE:
            for number in NUMBERS:
                values.append(speak(str(number), voice, speed))
                captions.append(f"{number} by {voice.partition('+')[2]} at {speed}")
    np.savez(output, values=np.stack(values)[:, None], captions=np.array(captions))
    print(f"{output}: values {(len(values), 1, RATE)}")


def speak(text: str, voice: str, words_per_minute: int) -> np.ndarray:
    """One second in [-1, 1], (RATE,) float32."""
    command = ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "--stdout", text]
    recording = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(recording)) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 2**15
    # Means over windows remove the frequencies that the lower rate cannot represent.
    edges = np.arange(RATE + 1) * rate / RATE
    total = np.interp(edges, np.arange(len(samples) + 1), np.concatenate([[0.0], np.cumsum(samples)]))
    return np.clip(np.diff(total) / np.diff(edges), -1, 1).astype(np.float32)


if __name__ == "__main__":
    main(sys.argv[1])
