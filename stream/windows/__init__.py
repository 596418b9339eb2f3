"""Event-time code without I/O and without a clock of its own: watermarks, panes, sessions."""
