"""What is on the disk: checkpoints, whose run a folder holds, which stage wrote it, whole files."""
