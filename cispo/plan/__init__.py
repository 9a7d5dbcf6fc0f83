"""What a run will need and how long it will take, from arithmetic alone (stdlib only).

`architecture` counts parameters, `flops` operations, `memory` bytes, `timing` seconds of each part,
and `simulate` plays the whole pipeline. `published` holds the models of the paper.
"""
