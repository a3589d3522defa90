"""Compile models with TVM: Relax for the graph, kernels of our own in TIR for what costs."""
