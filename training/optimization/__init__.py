"""From the loss of each batch to new weights: gradients, optimizers, an average of the weights."""
