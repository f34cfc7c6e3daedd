"""How the networks that ship with fastnn were trained: a development tool, not part of the package.

`python -m training.train NAME --data DIR --out DIR` trains, `python -m training.export NAME`
releases. README.md beside this file tells the whole way. PyTorch (CPU) is needed for these two
only: `data`, `recipes` and `textbook` import nothing but NumPy and fastnn.
"""
