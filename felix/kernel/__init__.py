"""The gate to the kernel: values and protocols (protocols, names), the real one (netlink, with messages, decode, rawnl,
nfnl, conntrack, guard, events) and a fake (fake). See DESIGN.md."""
