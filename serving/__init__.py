"""Everything between a text and its scores: labels, tokens, Triton client, embedded Triton, ONNX export."""
