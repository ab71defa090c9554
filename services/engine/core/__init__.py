"""Decisions of the task engine: pure functions over immutable task documents.

(task, message, surroundings) -> (new task, effects, events, reasons, next wake-up). No I/O, no sleep, no global state.
"""
