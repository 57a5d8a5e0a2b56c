"""Collections: opened by name, joined, chosen from, decoded, without copies."""
