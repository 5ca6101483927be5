"""Other libraries' dictionary trainers, each in a process of its own.

`environment.py` installs them, `worker.py` is the process, `train_<library>.py` hands batches to one library's own training loop. What a
worker imports has to run where only the peers are installed: the standard library, numpy, torch, safetensors.
"""
