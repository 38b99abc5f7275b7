"""The engine: values and image gradients of losses over frozen networks, a chunk of samples at a time.

It knows networks (`networks/`) and operators (`ops.py`), no loss module. CONTRIBUTING lists its modules, bottom up.
"""
