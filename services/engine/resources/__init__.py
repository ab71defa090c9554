"""Task resources: what a task needs besides its containers' images and network (spec 05)."""
