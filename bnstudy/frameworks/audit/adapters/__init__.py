"""One small module a framework: how to build its BatchNorm layer, feed it NCHW arrays and read what it stores.

Every module has `kind(name)`, called in a child process that has imported nothing else; names are those of `registry.py`.
"""
