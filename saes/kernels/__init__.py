"""The costly steps of a k-sparse dictionary: select, decode, gradients. `reference.py` is the slow literal twin of each.

Only the encoder's product is dense (2 d N operations a token); everything else touches the k winners alone. Nothing here makes a `[batch,
k, d]` tensor, and on the CPU every result is the same bits from run to run with the same number of threads.
"""
