"""An explainer outside this package: ONNX and `torch.export` graphs, and a static page that runs one."""
