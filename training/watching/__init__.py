"""What a person sees of a run while it trains: samples, trackers, and a page of curves."""
