"""What `tools/proofs/plans.py` is made of: a plan that is edited, the forms of a network, networks of PyTorch."""
