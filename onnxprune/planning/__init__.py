"""From what is asked for to what each group keeps."""
