"""felix.calc: see DESIGN.md."""
