"""The kubelet's door: what a runtime may ask (spec), how it travels (wire, shim.c, build), and the two files that the
host needs (conflist). See DESIGN.md."""
