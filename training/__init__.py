"""How the networks that ship with fastnn were trained: a development tool, not part of the package.

`python -m training.train NAME --data DIR --out DIR` trains, `python -m training.export NAME`
releases, `python -m training.cards` measures what was released and writes its cards, and `python -m
training.frontier` draws them. README.md beside this file tells the whole way. PyTorch (CPU) is
needed for the first two only.
"""
