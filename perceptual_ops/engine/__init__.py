"""The engine: values and image gradients of losses over frozen networks, a chunk of samples at a time.

It knows networks (`networks/`) and operators (`ops.py`), no loss module. From the bottom up: convolution.py, stages.py,
loss_scale.py and tiles.py run a trunk (trunk.py); batching.py says which samples; custom_op.py is what its operators
share; perceptual_op.py and metric_op.py are those operators, whose heads meet each layer's maps; chunked_op.py runs
a user's function, whose graph chunk_graph.py checks; autograd.py leaves the backward to autograd.
"""
