"""Folders on the disk: checkpoints, which run a folder holds, which stage wrote it, files that are whole or absent."""
