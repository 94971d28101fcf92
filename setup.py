"""The one thing that pyproject.toml has no settled words for: a C extension. All else stands there."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "worker.training.data._plain_scan",
            ["worker/training/data/_plain_scan.c"],
            extra_compile_args=["-O3"],
            py_limited_api=True,
            optional=True,  # without a C compiler uploads are checked as well, slower
        )
    ]
)
