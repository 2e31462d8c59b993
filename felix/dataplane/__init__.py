"""felix.dataplane: see DESIGN.md."""
