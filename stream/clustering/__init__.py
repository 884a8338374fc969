"""Inside the segmenter: River's rule compiled, steps that find their size, and centres that are put right."""
