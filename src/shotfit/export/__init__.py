"""What runs elsewhere: a fitted model as ONNX, OpenVINO, a class matrix, or a web page."""
