"""What both stages share: the training run, its settings, its budget, its checkpoints and its log."""

if __name__ != "vqlm.training":  # in the root of the repository: a second copy of every class
    raise ModuleNotFoundError("No module named 'training'; since 0.2.0 it is vqlm.training.", name="training")
