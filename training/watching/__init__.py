"""What a person sees of a run while it trains: log, progress, samples, trackers, and a page of curves."""
