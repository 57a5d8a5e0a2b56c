"""What computes: the device and its precisions, memory, processes, and what a step costs."""
