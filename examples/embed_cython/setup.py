"""Builds rollout.pyx against an installed fastnn: python setup.py build_ext --inplace"""

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

import fastnn

setup(
    name="rollout",
    ext_modules=cythonize(
        Extension(
            "rollout",
            ["rollout.pyx"],
            include_dirs=[fastnn.get_include(), numpy.get_include()],
            define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
        ),
        language_level=3,
    ),
)
