"""The finished model folder: its files, its tokenizers, its processor, its card."""
