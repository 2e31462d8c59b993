"""lab: see DESIGN.md."""
