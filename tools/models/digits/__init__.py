"""What tools/models/train_models.py is made of: data, networks, training, export, the table."""
