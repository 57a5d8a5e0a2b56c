from .loop import train_lm as train_lm
