"""Figures of a finished model, and the report that shows them."""
