"""Export: the bundle of a generator, and its files for ONNX and torch.export."""
