"""crds: see DESIGN.md."""
