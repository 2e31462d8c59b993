"""ctl: see DESIGN.md."""
