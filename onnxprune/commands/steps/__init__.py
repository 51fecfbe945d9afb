"""Steps of one pass of `prune`: a model is prepared, units are chosen, cut and recovered, all is proven and told."""
