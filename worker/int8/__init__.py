"""INT8 arithmetic of encoder graphs, shared by the quantizers: values, matrices of a graph, rewriting, ranges, search."""
