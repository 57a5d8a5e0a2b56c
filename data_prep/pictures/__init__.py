"""Picture files: which ones are read, how they are decoded, SVG, sheets of many."""
