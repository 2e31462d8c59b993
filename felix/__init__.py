"""felix: see DESIGN.md."""
