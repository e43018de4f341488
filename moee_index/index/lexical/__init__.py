"""Words of documents: split, counted in a file a segment, and weighed by BM25."""
