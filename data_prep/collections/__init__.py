"""Collections: opening by name, joining several, choosing rows, leaving out copies, decoding pictures."""
