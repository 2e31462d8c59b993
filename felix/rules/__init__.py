"""felix.rules: see DESIGN.md."""
