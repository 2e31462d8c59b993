"""bgp: see DESIGN.md."""
