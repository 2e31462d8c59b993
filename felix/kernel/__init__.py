"""felix.kernel: see DESIGN.md."""
