"""Deployment: a network as a file that other programs run, written once it was run and compared.

exporting  export: the attempts from a dynamic batch to a static one, and what came of them
sources    what can be exported: an artefact, a compression, a staged network, any module
examples   inputs of a network of which others are drawn, with other batch sizes
programs   torch.export: the program that pt2 files hold and that ONNX is made of
onnx_files, program_files, state_files   the formats, each written and run
int8       ONNX on bytes
targets    files that appear whole or not at all, and over nothing but their like
"""
