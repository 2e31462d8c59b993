"""ipam: see DESIGN.md."""
