"""Which axes and units hang together: axes, rules of operators, groups, what they cost."""
