"""Compiles the kernels when the package is installed (setuptools' `build_ext`).

An installation without a C++ compiler goes on without them.
"""

from __future__ import annotations

from setuptools import Extension
from setuptools.command.build_ext import build_ext

# No contraction: absmax of double quantization is a product and a sum, each rounded, everywhere.
_UNIX = ("-std=c++17", "-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden", "-pthread")
_MSVC = ("/std:c++17", "/O2", "/fp:precise")


class BuildKernels(build_ext):  # type: ignore[misc,unused-ignore]
    """The kernels as a library that is loaded by its path: it exports no module."""

    def build_extension(self, ext: Extension) -> None:
        """Compile for the compiler at hand."""
        msvc = self.compiler.compiler_type == "msvc"
        ext.extra_compile_args = list(_MSVC if msvc else _UNIX)
        ext.extra_link_args = [] if msvc else ["-pthread"]
        super().build_extension(ext)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        """Nothing beside what the sources export: setuptools would ask for a module's entry."""
        return []
