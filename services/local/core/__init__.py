"""Decisions of the control plane: pure functions over plain documents, no I/O, no clock of their own."""
