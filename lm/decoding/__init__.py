"""From a prompt's ids to codes, and from codes to likelihoods and captions."""
