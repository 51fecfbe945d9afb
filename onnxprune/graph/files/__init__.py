"""Files of models: read and checked, their tensors inside or beside them, encoded, written whole or not at all."""
