"""cni: see DESIGN.md."""
