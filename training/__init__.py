"""What both stages share: the training run, its settings, its budget, its checkpoints and its log."""
