"""Other forms of a model: plain, without branches, without what it holds twice, a part of it, or all but a part."""
