"""From targets and ratios to the units that each group keeps."""
