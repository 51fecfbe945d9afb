"""What tools/models/real_models.py is made of: photos, text, and files of networks."""
