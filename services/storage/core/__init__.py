"""Decisions about volumes and their driver: pure functions over documents."""
